//! The least that any tracker must do: one thread that receives a datagram and sends one back. What it reaches is what
//! the system calls leave to be reached.

use crate::window::{Talk, Wrong};
use std::io;
use std::net::{SocketAddr, UdpSocket};

/// As long as a heartbeat with its cookie.
const QUESTION: usize = 120;
/// As long as what acknowledges it.
const ANSWER: usize = 50;

/// Asks for an echo.
pub struct Echo;

impl Talk for Echo {
    fn ask(&mut self, _: usize, number: u32, question: &mut Vec<u8>) -> bool {
        question.extend(number.to_be_bytes());
        question.resize(QUESTION, b'.');
        true
    }

    fn number(&self, answer: &[u8]) -> Result<u32, Wrong> {
        let number = answer.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        number.ok_or_else(|| format!("{} bytes", answer.len()))
    }

    fn check(&mut self, _: usize, answer: &[u8]) -> Result<(), Wrong> {
        if answer.len() == ANSWER { Ok(()) } else { Err(format!("{} bytes", answer.len())) }
    }
}

/// Answers until it is killed.
pub fn serve(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    let mut buffer = [0; 2048];
    loop {
        let (count, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..count.min(ANSWER)], from)?;
    }
}
