//! Flags for the memory that other hosts may occupy.

use crate::cli::help::LIMITS;
use crate::cli::memory::usable_memory;
use crate::swarm::shares::Budgets;

/// Entries that all peers together may have at a tracker.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct BudgetFlags {
    /// Different files that all peers may announce; one source address gets at most half of what is free [default: a quarter of
    /// the memory, at most 4194304 files]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = LIMITS)]
    files_max: Option<u64>,
    /// Holders of all files; a peer counts once for each name of each file that it announces [default: an eighth of the
    /// memory, at most 16777216]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = LIMITS)]
    holders_max: Option<u64>,
    /// Claims of chunks in all chunk sets, and requests that wait for an agreement [default: an eighth of the memory, at
    /// most 16777216]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = LIMITS)]
    claims_max: Option<u64>,
}

impl BudgetFlags {
    /// The budgets; those without a flag follow from the memory of this machine.
    pub fn budgets(&self) -> Budgets {
        let by_memory = Budgets::for_memory(usable_memory());
        Budgets {
            files: self.files_max.unwrap_or(by_memory.files),
            holders: self.holders_max.unwrap_or(by_memory.holders),
            claims: self.claims_max.unwrap_or(by_memory.claims),
        }
    }
}
