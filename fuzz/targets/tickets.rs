//! Tickets: an accepted ticket has only characters that shells leave unchanged, and is read again as written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal::content::limits::{TICKET_BYTES_MAX, TICKET_PEERS_MAX};
use shoal::tracker_client::ticket::Ticket;

fuzz_target!(|text: &str| {
    let Ok(ticket) = text.parse::<Ticket>() else { return };
    assert!(ticket.peers.len() <= TICKET_PEERS_MAX);
    let written = ticket.to_string();
    assert!(written.len() <= TICKET_BYTES_MAX);
    assert!(
        written.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~:/%+,=-".contains(&byte)),
        "{written}"
    );
    assert_eq!(written.parse(), Ok(ticket));
});
