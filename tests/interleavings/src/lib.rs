//! Tests of the program's shared structures, built from their own sources, under a scheduler that chooses the next
//! thread at each lock and channel operation. An assertion holds in each schedule that is tried; a thread that is
//! never woken is reported as a deadlock.
#![cfg(test)]

mod instead;

mod shutdown {
    include!(concat!(env!("OUT_DIR"), "/shutdown.rs"));
}
mod threads {
    include!(concat!(env!("OUT_DIR"), "/threads.rs"));
}
mod progress {
    include!(concat!(env!("OUT_DIR"), "/progress.rs"));
}
mod offers {
    include!(concat!(env!("OUT_DIR"), "/offers.rs"));
}

mod handover {
    include!(concat!(env!("OUT_DIR"), "/handover.rs"));
}

mod connections;
mod notifications;
mod shutdown_order;
