//! What a placement does, as timetables; and what it never does, whatever happens.

mod copies;
mod events;
mod keeping;
mod proofs;
mod recount;
pub mod world;
