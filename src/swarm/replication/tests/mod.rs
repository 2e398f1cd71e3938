//! Tests of the replication planner: simulated time, random events, and checks of its invariants.

mod copies;
mod deletions;
mod events;
mod keeping;
mod proofs;
mod recount;
mod registrations;
pub mod world;
