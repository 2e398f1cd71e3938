//! Sockets and threads: accept loop, outgoing connections, framed TCP streams, a UDP client, shutdown.
//!
//! This layer never interprets messages. Invariants: every thread is spawned by [`Threads`] and joined; every blocking
//! call has a deadline or is woken by [`Shutdown`]; every queue is bounded.

pub mod address_space;
pub mod blocked_channel;
pub mod dial;
pub mod endpoint;
pub mod framed_stream;
pub mod in_flight;
pub mod interfaces;
pub mod listener;
pub mod listening;
pub mod memory_budget;
pub mod multicast;
pub mod ports;
pub mod process_clock;
pub mod rate_limit;
mod repeated_warning;
mod request_stream;
pub mod shutdown;
pub mod source_address;
pub mod threads;
pub mod timeouts;
pub mod udp_client;

pub use address_space::free_bytes;
pub use blocked_channel::BlockedChannel;
pub use dial::{dial, dial_any};
pub use endpoint::Endpoint;
pub use framed_stream::{FrameReader, FrameWriter, StreamError};
pub use in_flight::{InFlight, InFlightBudget};
pub use interfaces::{host_addresses, ticket_addresses, with_own_scope};
pub use listener::{Activity, Listener, bind_udp};
pub use listening::{BindError, Listening};
pub use memory_budget::MemoryBudget;
pub use ports::PortRange;
pub use process_clock::{running_time, start_process_clock};
pub use rate_limit::RateLimit;
pub use shutdown::{POLL_INTERVAL, Shutdown};
pub use threads::{Threads, run_parallel, spawn_detached, unjoined_count};
pub use timeouts::Timeouts;
pub use udp_client::{UdpClient, UdpClientError};
