//! Tests of the replication planner: simulated time, random events, and checks of its invariants.

mod copies;
mod events;
mod keeping;
mod proofs;
mod recount;
pub mod world;
