//! Flags of a tracker that replicates files at volunteers.

use super::ConnectionsFlag;
use crate::cli::LogOptions;
use crate::cli::help::{FILES, LIMITS, NETWORK, TIMEOUTS, VOLUNTEERS};
use crate::content::limits;
use crate::net::Timeouts;
use crate::report::next_step::quoted;
use crate::report::{Fault, RoleError};
use crate::roles::tracker::KeepConfig;
use crate::swarm::replication::Settings;
use crate::swarm::tracker::Rules;
use crate::upload::server::ServeOptions;
use clap::{Args, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Replication of files at volunteers.
#[derive(Args, Clone)]
pub struct ReplicationFlags {
    /// Offer the files and sub-folders of this folder, each as one item, and replicate them at volunteers
    #[arg(long, value_name = "DIR", requires = "state", help_heading = FILES)]
    files: Option<PathBuf>,
    /// Folder for the catalogue of files and replicas; it is created if it does not exist
    #[arg(long, value_name = "DIR", help_heading = FILES)]
    state: Option<PathBuf>,
    /// Delete a file from the folder after volunteers have stored all replicas; it is still offered
    #[arg(long, requires = "files", help_heading = FILES)]
    offload: bool,
    /// Move the catalogue aside and build a new one from the reports of volunteers
    #[arg(long, requires = "state", help_heading = FILES)]
    rebuild: bool,
    /// Number of replicas of each chunk, 1 to 16
    #[arg(long, value_name = "N", default_value_t = limits::REPLICA_COUNT as u32, requires = "state",
        value_parser = clap::value_parser!(u32).range(1..=16), help_heading = VOLUNTEERS)]
    replicas: u32,
    /// Number of replicas of each chunk up to which replicas of returning volunteers are kept while there is space
    /// [default: 2 more than --replicas]
    #[arg(long, value_name = "N", requires = "state", value_parser = clap::value_parser!(u32).range(1..=100),
        help_heading = VOLUNTEERS)]
    replicas_max: Option<u32>,
    /// Number of volunteers that must be active before files are distributed
    /// [default: 3, or --replicas if that is more]
    #[arg(long, value_name = "N", requires = "state", value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        help_heading = VOLUNTEERS)]
    min_volunteers: Option<u32>,
    /// Volunteers whose proven replicas justify deletions: those that the owner has approved or that connect over
    /// loopback (approve), or all (open)
    #[arg(long, value_name = "WHICH", default_value = "approve", requires = "state", help_heading = VOLUNTEERS)]
    volunteers: VolunteerApproval,
    #[arg(long = "transfer_port", short = 'p', visible_alias = "port", value_name = "PORT", default_value_t = 0,
        requires = "state", help = super::PORT_HELP, help_heading = NETWORK)]
    transfer_port: u16,
    #[arg(long, value_name = "IP:PORT", value_parser = super::parse_advertise, requires = "state",
        help = super::ADVERTISE_HELP, help_heading = NETWORK)]
    advertise: Option<SocketAddr>,
    #[arg(long, value_name = "RATE", default_value = "0", value_parser = super::parse_rate, requires = "state",
        help = super::UPLOAD_LIMIT_HELP, help_heading = LIMITS)]
    upload_limit: u64,
    /// Maximum rate of copies for repair in bytes per second, for example 50MB; 0 means no limit
    #[arg(long, value_name = "RATE", default_value = "0", value_parser = super::parse_rate, requires = "state",
        help_heading = LIMITS)]
    repair_limit: u64,
    /// Interval at which the holders of a random chunk must prove that they have it
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = super::parse_seconds,
        requires = "state", help_heading = TIMEOUTS)]
    challenge: Duration,
    /// Time after which the replicas of a volunteer that is away without announcement are replaced
    #[arg(long, value_name = "SECONDS", default_value = "10m", value_parser = super::parse_seconds,
        requires = "state", help_heading = TIMEOUTS)]
    repair_after: Duration,
}

/// Which volunteers justify deletions.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VolunteerApproval {
    Approve,
    Open,
}

impl ReplicationFlags {
    /// The configuration of the replication; `None` without `--state`.
    ///
    /// # Errors
    /// The numbers contradict each other, or the folder does not exist.
    pub fn config(
        self,
        rules: &Rules,
        connections: &ConnectionsFlag,
        timeouts: Timeouts,
        log: &LogOptions,
    ) -> Result<Option<KeepConfig>, RoleError> {
        let Some(state) = self.state.clone() else { return Ok(None) };
        if let Some(folder) = self.files.as_ref().filter(|folder| !folder.is_dir()) {
            let text = format!(
                "{} is not a folder; create it with: mkdir -p {} (or choose another with --files DIR)",
                folder.display(),
                quoted(&folder.display().to_string())
            );
            return Err(RoleError::new(Fault::FileAccess, text));
        }
        let (replicas, replicas_max, volunteers_min) = self.counts()?;
        let settings = Settings {
            replicas,
            replicas_max,
            volunteers_min,
            approve: self.volunteers == VolunteerApproval::Approve,
            repair_after: self.repair_after,
            lease: rules.leases.lease,
            offload: self.offload,
            repair_limit: self.repair_limit,
            challenge_every: Some(self.challenge),
        };
        Ok(Some(KeepConfig {
            files: self.files,
            state,
            port: self.transfer_port,
            advertise: self.advertise,
            serve: ServeOptions {
                connections: connections.max_connections,
                upload_limit: self.upload_limit,
                in_flight: connections.in_flight(),
                timeouts,
                site: None,
            },
            settings,
            rebuild: self.rebuild,
            log_file: log.log_file.clone(),
        }))
    }

    /// Wanted replicas, limit of kept replicas, and volunteers before a distribution.
    fn counts(&self) -> Result<(usize, usize, usize), RoleError> {
        let replicas = self.replicas;
        let replicas_max = self.replicas_max.unwrap_or(replicas + limits::RETURNED_REPLICAS_MAX as u32);
        let volunteers = self.min_volunteers.unwrap_or(replicas.max(limits::VOLUNTEERS_MIN as u32));
        let refusal = |text| Err(RoleError::new(Fault::Usage, text));
        if volunteers < replicas {
            return refusal(format!(
                "--replicas {replicas} with --min-volunteers {volunteers}: a chunk has at most one replica at each \
                 volunteer; use --min-volunteers {replicas} or --replicas {volunteers}"
            ));
        }
        if replicas_max < replicas {
            return refusal(format!(
                "--replicas-max {replicas_max} is less than --replicas {replicas}; use --replicas-max {replicas} or more"
            ));
        }
        Ok((replicas as usize, replicas_max as usize, volunteers as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        replication: ReplicationFlags,
    }

    fn counts(args: &str) -> Result<(usize, usize, usize), String> {
        let args = ["program", "--state", "s"].into_iter().chain(args.split_whitespace());
        Program::parse_from(args).replication.counts().map_err(|error| error.text)
    }

    #[test]
    fn defaults_follow_the_number_of_replicas_and_contradictions_are_refused() {
        assert_eq!(counts(""), Ok((2, 4, 3)));
        assert_eq!(counts("--replicas 4"), Ok((4, 6, 4)));
        assert_eq!(counts("--replicas 1 --min-volunteers 1 --replicas-max 1"), Ok((1, 1, 1)));
        assert!(counts("--replicas 4 --min-volunteers 2").unwrap_err().contains("use --min-volunteers 4"));
        assert!(counts("--min-volunteers 1").unwrap_err().contains("or --replicas 1"));
        assert!(counts("--replicas 3 --replicas-max 2").unwrap_err().contains("--replicas-max 3 or more"));
    }
}
