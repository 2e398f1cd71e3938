//! Exact JSON of every message, so that the wire format never changes by accident.

use super::*;
use crate::content::limits;
use crate::protocol::set_status::{ChunkStatus, ClaimStatus, Clients, SetMember};
use std::fmt;

use crate::protocol::datagram::Cookie;
use crate::protocol::frame;
use crate::protocol::set_report::LastHolder;

fn exact<M: Message + PartialEq + fmt::Debug>(message: M, json: &str) {
    let json = json
        .replace("FILE", &"07".repeat(32))
        .replace("HASH", &"09".repeat(32))
        .replace("TOKEN", "0000000000000000000000000000002a");
    assert_eq!(String::from_utf8(frame::encode(&message).unwrap()).unwrap(), format!("{json}\n"));
    assert_eq!(serde_json::from_str::<M>(&json).unwrap(), message);
}

const FILE: FileId = FileId([7; 32]);
const TOKEN: Token = Token(42);
const INDEX: ChunkIndex = ChunkIndex(4);
const CLAIM: Claim = Claim { sha256: Digest([9; 32]), size: 131 };

fn set() -> SetKey {
    SetKey { set: SetName::new("default").unwrap(), count: 5 }
}

fn summary() -> FileSummary {
    FileSummary { id: FILE, name: FileName::new("a b.txt").unwrap(), size: 9, chunks: 1 }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn json_of_requests_is_fixed() {
    use TrackerRequest::*;
    let name = PeerName::new("peer").unwrap();
    exact(Hello { version: 3 }, r#"{"type":"hello","version":3,"tracker":true}"#);
    let without: TrackerRequest = serde_json::from_str(r#"{"type":"hello","version":3}"#).unwrap();
    assert_eq!(without, Hello { version: 3 });
    exact(
        Register(Registration::new(name.clone(), 7000)),
        r#"{"type":"register","name":"peer","port":7000}"#,
    );
    exact(
        Register(Registration {
            name,
            port: 7000,
            advertise: Some(address("[::1]:9")),
            addresses: Vec::new(),
            identity: None,
            volunteer: false,
        }),
        r#"{"type":"register","name":"peer","port":7000,"advertise":"[::1]:9"}"#,
    );
    exact(Heartbeat { token: TOKEN }, r#"{"type":"heartbeat","token":"TOKEN"}"#);
    exact(Goodbye { token: TOKEN }, r#"{"type":"goodbye","token":"TOKEN"}"#);
    exact(
        Announce { token: TOKEN, file: summary(), held: 1, sent: None },
        r#"{"type":"announce","token":"TOKEN","file":{"id":"FILE","name":"a b.txt","size":9,"chunks":1},"held":1}"#,
    );
    let offered = OfferedFile { file: summary(), held: 1 };
    let one = serde_json::to_string(&offered).unwrap();
    let batch = |more| AnnounceFiles { token: TOKEN, files: vec![offered.clone()], more };
    exact(batch(false), &format!(r#"{{"type":"announce_files","token":"TOKEN","files":[{one}]}}"#));
    exact(
        batch(true),
        &format!(r#"{{"type":"announce_files","token":"TOKEN","files":[{one}],"more":true}}"#),
    );
    let withdraw = |name| Withdraw { token: TOKEN, file: FILE, name };
    exact(withdraw(None), r#"{"type":"withdraw","token":"TOKEN","file":"FILE"}"#);
    let named = r#"{"type":"withdraw","token":"TOKEN","file":"FILE","name":"a"}"#;
    exact(withdraw(FileName::new("a").ok()), named);
    exact(
        Lookup { name: Some(summary().name), id: None, limit: 30, token: None },
        r#"{"type":"lookup","name":"a b.txt","limit":30}"#,
    );
    exact(
        Lookup { name: None, id: Some(FILE), limit: 30, token: Some(TOKEN) },
        r#"{"type":"lookup","id":"FILE","limit":30,"token":"TOKEN"}"#,
    );
    exact(List, r#"{"type":"list"}"#);
    exact(
        JoinSet { token: TOKEN, set: set() },
        r#"{"type":"join_set","token":"TOKEN","set":"default","count":5}"#,
    );
    exact(
        Claim { token: TOKEN, set: set(), index: INDEX, claim: CLAIM },
        r#"{"type":"claim","token":"TOKEN","set":"default","count":5,"index":4,"sha256":"HASH","size":131}"#,
    );
    exact(
        Unclaim { token: TOKEN, set: set(), index: INDEX },
        r#"{"type":"unclaim","token":"TOKEN","set":"default","count":5,"index":4}"#,
    );
    exact(
        WhereChunk { token: TOKEN, set: set(), index: INDEX },
        r#"{"type":"where_chunk","token":"TOKEN","set":"default","count":5,"index":4}"#,
    );
    exact(
        Unreachable { token: TOKEN, set: set(), index: INDEX, seconds: 30 },
        r#"{"type":"unreachable","token":"TOKEN","set":"default","count":5,"index":4,"seconds":30}"#,
    );
    exact(
        SetStatus { token: TOKEN, set: set() },
        r#"{"type":"set_status","token":"TOKEN","set":"default","count":5}"#,
    );
    exact(Manifest { file: FILE }, r#"{"type":"manifest","file":"FILE"}"#);
    assert_eq!(serde_json::from_str::<TrackerRequest>(r#"{"type":"dance"}"#).unwrap(), Unknown);
}

#[test]
fn json_of_responses_is_fixed() {
    use TrackerResponse::*;
    exact(Hello { version: 3 }, r#"{"type":"hello","version":3}"#);
    exact(
        Cookie { cookie: crate::protocol::datagram::Cookie(255) },
        r#"{"type":"cookie","cookie":"00000000000000ff"}"#,
    );
    exact(
        Registered {
            token: TOKEN,
            address: address("10.0.0.1:7000"),
            heartbeat_ms: 5000,
            lease_ms: 10000,
            public: false,
            role: Some(HubRole::Tracker),
        },
        r#"{"type":"registered","token":"TOKEN","address":"10.0.0.1:7000","heartbeat_ms":5000,"lease_ms":10000,"role":"tracker"}"#,
    );
    exact(Alive, r#"{"type":"alive"}"#);
    exact(Noted, r#"{"type":"noted"}"#);
    exact(Farewell, r#"{"type":"farewell"}"#);
    exact(AnnouncedFiles { accepted: 2 }, r#"{"type":"announced_files","accepted":2}"#);
    exact(Announced { file: FILE }, r#"{"type":"announced","file":"FILE"}"#);
    exact(Withdrawn { file: FILE }, r#"{"type":"withdrawn","file":"FILE"}"#);
    let found = FoundFile {
        file: summary(),
        holders: 2,
        complete: 1,
        whole: vec![address("10.0.0.1:7000").into()],
        partial: vec![],
        md5: None,
    };
    exact(
        Found { files: vec![found], truncated: false },
        r#"{"type":"found","files":[{"id":"FILE","name":"a b.txt","size":9,"chunks":1,"holders":2,"complete":1,"whole":["10.0.0.1:7000"],"partial":[]}]}"#,
    );
    exact(Found { files: vec![], truncated: true }, r#"{"type":"found","files":[],"truncated":true}"#);
    exact(SetJoined { set: set(), others: vec![] }, r#"{"type":"set_joined","set":"default","count":5}"#);
    exact(
        SetJoined { set: set(), others: vec![6] },
        r#"{"type":"set_joined","set":"default","count":5,"others":[6]}"#,
    );
    exact(
        ChunkLocation { set: set(), index: INDEX, claim: CLAIM, holders: vec![address("10.0.0.1:1").into()] },
        r#"{"type":"chunk_location","set":"default","count":5,"index":4,"sha256":"HASH","size":131,"holders":["10.0.0.1:1"]}"#,
    );
    exact(
        ChunkUnknown { set: set(), index: INDEX },
        r#"{"type":"chunk_unknown","set":"default","count":5,"index":4}"#,
    );
    exact(
        ClaimDiffers { set: set(), index: INDEX, claim: CLAIM },
        r#"{"type":"claim_differs","set":"default","count":5,"index":4,"sha256":"HASH","size":131}"#,
    );
    exact(
        SetSealed { set: set(), file: FILE },
        r#"{"type":"set_sealed","set":"default","count":5,"file":"FILE"}"#,
    );
    let last = LastHolder { name: PeerName::new("bob").unwrap(), seconds: 40 };
    let chunk = WaitingChunk { index: INDEX, agree: 0, quorum: 2, differ: vec![], last: Some(last) };
    exact(
        SetWaits { set: set(), chunks: vec![chunk], more: 0, disputed: 1 },
        r#"{"type":"set_waits","set":"default","count":5,"chunks":[{"index":4,"agree":0,"quorum":2,"last":{"name":"bob","seconds":40}}],"disputed":1}"#,
    );
    let bob = || PeerName::new("bob").unwrap();
    let clients = |names: Vec<PeerName>| Clients { count: names.len() as u32, names };
    let status = crate::protocol::set_status::SetStatus {
        set: set().set,
        count: set().count,
        quorum: 2,
        agreed: 0,
        clients: 1,
        members: vec![SetMember { name: bob(), address: address("10.0.0.1:1"), held: 0 }],
        chunks: vec![ChunkStatus {
            index: INDEX,
            agreed: None,
            holders: clients(vec![]),
            claims: vec![ClaimStatus { sha256: CLAIM.sha256, clients: clients(vec![bob()]) }],
            last: None,
        }],
    };
    exact(
        SetStatus { status: Box::new(status) },
        r#"{"type":"set_status","set":"default","count":5,"quorum":2,"agreed":0,"clients":1,"members":[{"name":"bob","address":"10.0.0.1:1","held":0}],"chunks":[{"index":4,"holders":{"count":0,"names":[]},"claims":[{"sha256":"HASH","clients":{"count":1,"names":["bob"]}}]}]}"#,
    );
    exact(
        SameName { set: set(), address: address("10.0.0.1:1") },
        r#"{"type":"same_name","set":"default","count":5,"address":"10.0.0.1:1"}"#,
    );
    exact(SetComplete { set: set() }, r#"{"type":"set_complete","set":"default","count":5}"#);
    exact(
        Manifest { file: FILE, size: 5, chunk_size: 0, length: 36 },
        r#"{"type":"manifest","file":"FILE","size":5,"chunk_size":0,"length":36}"#,
    );
    exact(Peers { count: 2, length: 90 }, r#"{"type":"peers","count":2,"length":90}"#);
    exact(Listing { count: 2, length: 90 }, r#"{"type":"listing","count":2,"length":90}"#);
    exact(
        Error { code: ErrorCode::UnknownToken, text: "register again".into() },
        r#"{"type":"error","code":"unknown_token","text":"register again"}"#,
    );
}

#[test]
fn a_response_shrinks_until_it_fits_in_a_datagram() {
    let addresses = vec![address("[1111:2222:3333:4444:5555:6666:7777:8888]:65535"); 300];
    let found = FoundFile {
        file: summary(),
        holders: 600,
        complete: 300,
        whole: addresses.clone().into_iter().map(Into::into).collect(),
        partial: addresses.into_iter().map(Into::into).collect(),
        md5: Some(Md5([5; 16])),
    };
    let mut response = TrackerResponse::Found { files: vec![found; 9], truncated: false };
    let mut encoded = Err(frame::FrameError::TooLong);
    while encoded.is_err() {
        assert!(response.shrink());
        encoded = crate::protocol::datagram::Datagram::new(1, None, response.clone()).encode();
    }
    let TrackerResponse::Found { files, truncated: true } = response else { panic!("{response:?}") };
    assert!(!files.is_empty());
    assert!(!TrackerResponse::Alive.shrink());
}

#[test]
fn the_largest_messages_fit_in_a_frame() {
    let longest = address("[1111:2222:3333:4444:5555:6666:7777:8888]:65535");
    let holders = vec![longest.into(); limits::HOLDERS_MAX];
    let location = TrackerResponse::ChunkLocation {
        set: SetKey { set: SetName::new("é".repeat(32)).unwrap(), count: limits::CHUNKS_MAX },
        index: ChunkIndex(limits::CHUNKS_MAX),
        claim: Claim { sha256: Digest([255; 32]), size: u64::MAX },
        holders,
    };
    assert!(frame::encode(&location).is_ok());
}

#[test]
fn tokens_and_cookies_have_a_fixed_number_of_digits() {
    for bad in ["\"\"", "\"+0000000000000000000000000000002a\"", "\"2a\"", "42"] {
        assert!(serde_json::from_str::<Token>(bad).is_err(), "{bad}");
        assert!(serde_json::from_str::<Cookie>(bad).is_err(), "{bad}");
    }
    assert_eq!(format!("{TOKEN:?}"), "Token(..)");
}
