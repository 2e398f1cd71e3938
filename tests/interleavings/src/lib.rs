//! The program's shared structures, their own sources, under a scheduler that decides at each lock, channel and thread
//! who goes on. What a test says holds in every interleaving that is tried; a thread that is never woken is a deadlock.
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

mod endings;
mod news;
