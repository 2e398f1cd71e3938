//! Tables of a chunk set: agreed hashes, holders, claims that differ, clients, and the chunks of a folder.
//!
//! Pure. Invariant: each output ends with a newline and is never empty.

use crate::cli::table::{Side, size, table};
use crate::content::Digest;
use crate::content::fmt::counted;
use crate::protocol::set_status::{ChunkStatus, Clients, SetMember, SetStatus};
use crate::storage::HeldChunk;
use std::fmt::Write;

/// Chunks of a folder that are listed.
const LISTED_CHUNKS_MAX: usize = 100;
/// Digits of a digest that are shown.
const SHORT_DIGITS: usize = 8;

/// The chunk sets of a tracker.
pub fn sets(known: u64, sets: &[SetStatus]) -> String {
    if sets.is_empty() {
        return "no chunk sets\n".to_owned();
    }
    let mut text = sets.iter().map(set).collect::<Vec<_>>().join("\n");
    and_more(&mut text, known.saturating_sub(sets.len() as u64), "chunk set");
    text
}

/// A set and its chunks.
pub fn set(status: &SetStatus) -> String {
    let SetStatus { set, count, quorum, agreed, clients, chunks, .. } = status;
    let mut text = format!(
        "set {}: {agreed} of {} agreed (by {} or more), {}\n",
        set,
        counted((*count).into(), "chunk"),
        counted((*quorum).into(), "client"),
        counted((*clients).into(), "member")
    );
    let columns =
        [("CHUNK", Side::Right), ("AGREED", Side::Left), ("HOLDERS", Side::Left), ("DIFFERENT", Side::Left)];
    text += &table(columns, &chunks.iter().map(row).collect::<Vec<_>>());
    and_more(&mut text, u64::from(*count).saturating_sub(chunks.len() as u64), "chunk");
    text
}

fn row(chunk: &ChunkStatus) -> [String; 4] {
    let claims = chunk.claims.iter();
    let mut different: Vec<String> =
        claims.map(|claim| format!("{} ({})", short(claim.sha256), named(&claim.clients))).collect();
    if let Some(last) = &chunk.last {
        different.push(format!("{} had it, disconnected {} s ago", last.name, last.seconds));
    }
    let agreed = chunk.agreed.map_or_else(|| "-".to_owned(), short);
    let holders = if chunk.holders.count == 0 { "-".to_owned() } else { named(&chunk.holders) };
    [chunk.index.to_string(), agreed, holders, different.join("; ")]
}

/// The first digits of a digest.
fn short(digest: Digest) -> String {
    digest.to_string().chars().take(SHORT_DIGITS).collect()
}

fn named(clients: &Clients) -> String {
    let mut names: Vec<String> = clients.names.iter().map(ToString::to_string).collect();
    let more = (clients.count as usize).saturating_sub(names.len());
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

/// The clients of a set.
pub fn members(status: &SetStatus) -> String {
    let row = |member: &SetMember| {
        let held = format!("{} of {}", member.held, status.count);
        [member.name.to_string(), member.address.to_string(), held]
    };
    let columns = [("NAME", Side::Left), ("ADDRESS", Side::Left), ("AGREED CHUNKS", Side::Right)];
    let mut text = table(columns, &status.members.iter().map(row).collect::<Vec<_>>());
    and_more(&mut text, u64::from(status.clients).saturating_sub(status.members.len() as u64), "client");
    text
}

/// The chunks of a folder, with all digits of each digest if `long`.
pub fn mine(held: &[HeldChunk], count: u32, long: bool) -> String {
    let mut text = format!("{} of {}\n", held.len(), counted(count.into(), "chunk"));
    if held.is_empty() {
        return text;
    }
    let shown = |digest: Digest| if long { digest.to_string() } else { short(digest) };
    let row = |chunk: &HeldChunk| [chunk.index.to_string(), size(chunk.length), shown(chunk.digest)];
    let listed: Vec<_> = held.iter().take(LISTED_CHUNKS_MAX).map(row).collect();
    text += &table([("CHUNK", Side::Right), ("SIZE", Side::Right), ("SHA-256", Side::Left)], &listed);
    and_more(&mut text, (held.len() - listed.len()) as u64, "chunk");
    text
}

fn and_more(text: &mut String, more: u64, what: &str) {
    if more > 0 {
        let _ = writeln!(text, "... and {}", counted(more, &format!("more {what}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{ChunkIndex, PeerName, SetName};
    use crate::protocol::set_report::LastHolder;
    use crate::protocol::set_status::ClaimStatus;

    fn clients(count: u32, names: &[&str]) -> Clients {
        Clients { count, names: names.iter().map(|name| PeerName::new(*name).unwrap()).collect() }
    }

    fn status() -> SetStatus {
        let chunk = |index| ChunkStatus {
            index: ChunkIndex(index),
            agreed: None,
            holders: Clients::default(),
            claims: vec![],
            last: None,
        };
        let claim = |digits, names: &[&str]| ClaimStatus {
            sha256: Digest([digits; 32]),
            clients: clients(names.len() as u32, names),
        };
        let last = LastHolder { name: PeerName::new("bob").unwrap(), seconds: 40 };
        SetStatus {
            set: SetName::new("default").unwrap(),
            count: 9,
            quorum: 2,
            agreed: 1,
            clients: 3,
            members: vec![SetMember {
                name: PeerName::new("ann").unwrap(),
                address: "10.0.0.1:7000".parse().unwrap(),
                held: 1,
            }],
            chunks: vec![
                ChunkStatus {
                    agreed: Some(Digest([7; 32])),
                    holders: clients(9, &["ann", "bob"]),
                    claims: vec![claim(8, &["eve"])],
                    ..chunk(0)
                },
                ChunkStatus { claims: vec![claim(1, &["ann"]), claim(2, &["bob", "eve"])], ..chunk(3) },
                ChunkStatus { last: Some(last), ..chunk(4) },
            ],
        }
    }

    #[test]
    fn chunks_show_agreed_hash_holders_and_different_claims() {
        let text = set(&status());
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(
            rows,
            [
                "set default: 1 of 9 chunks agreed (by 2 clients or more), 3 members",
                "CHUNK  AGREED    HOLDERS           DIFFERENT",
                "    1  07070707  ann, bob, 7 more  08080808 (eve)",
                "    4  -         -                 01010101 (ann); 02020202 (bob, eve)",
                "    5  -         -                 bob had it, disconnected 40 s ago",
                "... and 6 more chunks",
            ]
        );
        assert_eq!(sets(3, &[status()]).lines().last(), Some("... and 2 more chunk sets"));
        assert_eq!(sets(0, &[]), "no chunk sets\n");
    }

    #[test]
    fn members_and_own_chunks_are_listed() {
        assert_eq!(
            members(&status()),
            "NAME  ADDRESS        AGREED CHUNKS\nann   10.0.0.1:7000         1 of 9\n... and 2 more clients\n"
        );
        let chunk = HeldChunk { index: ChunkIndex(1), digest: Digest([7; 32]), length: 2_048 };
        assert_eq!(
            mine(&[chunk], 2, false),
            "1 of 2 chunks\nCHUNK     SIZE  SHA-256\n    2  2.0 KiB  07070707\n"
        );
        assert!(mine(&[chunk], 2, true).ends_with(&format!("  2.0 KiB  {}\n", "07".repeat(32))));
        assert_eq!(mine(&[], 2, false), "0 of 2 chunks\n");
    }
}
