//! A lower bound for any tracker: one thread that receives a datagram and sends one back, so that its rate is limited
//! by system calls only.

use crate::window::{Talk, Wrong};
use std::io;
use std::net::{SocketAddr, UdpSocket};

/// Length of a heartbeat with its cookie, bytes.
const REQUEST_BYTES: usize = 120;
/// Length of the acknowledgement of a heartbeat, bytes.
const RESPONSE_BYTES: usize = 50;

/// Requests to an echo server.
pub struct Echo;

impl Talk for Echo {
    fn ask(&mut self, _: usize, number: u32, question: &mut Vec<u8>) -> bool {
        question.extend(number.to_be_bytes());
        question.resize(REQUEST_BYTES, b'.');
        true
    }

    fn number(&self, answer: &[u8]) -> Result<u32, Wrong> {
        let number = answer.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        number.ok_or_else(|| format!("{} bytes", answer.len()))
    }

    fn check(&mut self, _: usize, answer: &[u8]) -> Result<(), Wrong> {
        if answer.len() == RESPONSE_BYTES { Ok(()) } else { Err(format!("{} bytes", answer.len())) }
    }
}

/// Echoes datagrams until the process is killed.
pub fn serve(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    let mut buffer = [0; 2048];
    loop {
        let (count, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..count.min(RESPONSE_BYTES)], from)?;
    }
}
