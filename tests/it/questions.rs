//! A client that is started without flags, or with a port and a number.

use crate::common::terminal::AtTerminal;
use crate::common::*;

#[test]
fn a_client_without_flags_asks_at_a_terminal() {
    let place = place();
    let dir = place.path();
    let mut client = AtTerminal::start(dir, "client", &[]);
    client.wait_for("port [");
    client.press("70000\n");
    client.wait_for("70000 is not a port: a number from 1 to 65535");
    client.wait_for("port [");
    // The default is a free port.
    client.press("\n");
    client.wait_for("peer number or name [");
    client.press("7\n");
    client.wait_for("folder [peer7]: ");
    client.press("\n");
    client.wait_for("peer7 does not exist; create it? [y]: ");
    client.press("\n");
    client.wait_for("the same without questions: client -folder peer7 -transfer_port ");
    client.wait_for(" -name peer7 --manager 127.0.0.1:10000");
    client.wait_for("peer7 listening on 127.0.0.1:");
    client.wait_for("peer7> ");
    client.press("quit\r");
    assert_eq!(client.exit_code(PATIENCE), Some(0));
    assert!(dir.join("peer7").is_dir());

    let mut ended = AtTerminal::start(dir, "client", &[]);
    ended.wait_for("port [");
    ended.press("\x04");
    assert_eq!(ended.exit_code(PATIENCE), Some(2));
}

#[test]
fn port_and_number_name_the_peer_and_its_folder() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address().to_string();
    subfolder(dir, "peer4");
    let client = Program::start("client", &["0", "4", "--manager", &at], dir);
    client.wait_for_text("registered with the manager");
    manager.wait_for_text("peer4 joined at");
    let mut missing = Program::start("client", &["9001", "5"], dir);
    missing.ends_with(17);
    missing.wait_for_text("folder peer5 not found; create it with: mkdir -p peer5");
    // Without a terminal incomplete arguments are a usage error.
    for arguments in [&[][..], &["9001"]] {
        Program::start("client", arguments, dir).ends_with(2);
    }
}
