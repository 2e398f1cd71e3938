//! Discovery of files, trackers and managers in the local network, by multicast.
//!
//! A program that listens on an address which other hosts can reach answers questions ([`responder`]). A program that
//! looks for something asks on every interface ([`search`], [`hub`]); it shows what it finds, and connects to nothing by itself.

pub mod hub;
pub mod responder;
pub mod search;

use crate::protocol::tokens::Nonce;
use std::io;

/// A random number that cannot be guessed.
fn random() -> io::Result<Nonce> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(Nonce(u128::from_be_bytes(bytes)))
}
