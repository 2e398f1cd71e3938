//! Subcommands of `tracker` for the owner of a running tracker.

use crate::cli::LogOptions;
use crate::cli::help::FILES;
use crate::swarm::command::{Command, FileSelector, VolunteerSelector};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Flags of each command.
#[derive(Args)]
pub struct ControlFlags {
    /// Folder that the running tracker was started with (its --state)
    #[arg(long, value_name = "DIR", help_heading = FILES)]
    pub state: PathBuf,
    /// Where log lines go.
    #[command(flatten)]
    pub log: LogOptions,
}

/// The volunteer of a command.
#[derive(Args)]
pub struct VolunteerArgs {
    /// Name of the volunteer, its address, or the start of its key
    #[arg(value_name = "VOLUNTEER")]
    volunteer: String,
    #[command(flatten)]
    control: ControlFlags,
}

/// The file of a command.
#[derive(Args)]
pub struct FileArgs {
    /// Name of the file, or at least 8 digits of its id
    #[arg(value_name = "FILE")]
    file: String,
    #[command(flatten)]
    control: ControlFlags,
}

/// Commands to a running tracker, over the control socket in its state folder.
#[derive(Subcommand)]
pub enum OwnerCommand {
    /// Lists the registered peers of a running tracker
    Peers {
        /// Flags of each command.
        #[command(flatten)]
        control: ControlFlags,
    },
    /// Lets proven replicas of a volunteer justify deletions
    Approve(VolunteerArgs),
    /// Stops counting the replicas of a volunteer; drops none of them
    Deny(VolunteerArgs),
    /// Copies the replicas of a volunteer elsewhere, so that it can leave
    Drain(VolunteerArgs),
    /// Cancels a drain
    Stay(VolunteerArgs),
    /// Removes the record of a volunteer that left
    ForgetVolunteer {
        /// The volunteer.
        #[command(flatten)]
        volunteer: VolunteerArgs,
        /// Do not ask for a confirmation
        #[arg(long, help_heading = FILES)]
        yes: bool,
    },
    /// Brings a file back into the folder of the tracker, and never offloads it
    Recall(FileArgs),
    /// Deletes a file from the folder of the tracker as soon as its replicas permit it
    Offload {
        /// The file.
        #[command(flatten)]
        file: FileArgs,
        /// Only show the effect
        #[arg(long, help_heading = FILES)]
        dry_run: bool,
    },
    /// Stops replicating a file: volunteers delete its chunks
    Forget {
        /// The file.
        #[command(flatten)]
        file: FileArgs,
        /// Do not ask for a confirmation
        #[arg(long, help_heading = FILES)]
        yes: bool,
        /// Only show the effect
        #[arg(long, help_heading = FILES)]
        dry_run: bool,
    },
    /// Lets the volunteers prove all replicas of a file now; the exit code is 0 if all wanted replicas are proven
    Verify(FileArgs),
}

impl OwnerCommand {
    /// The command for the tracker, and the flags for its client.
    pub fn command(self) -> (Command, ControlFlags) {
        let selector = |args: VolunteerArgs| (VolunteerSelector(args.volunteer), args.control);
        let wanted = |args: FileArgs| (FileSelector(args.file), args.control);
        match self {
            Self::Peers { control } => (Command::Peers, control),
            Self::Approve(args) => with(selector(args), |volunteer| Command::Approve { volunteer }),
            Self::Deny(args) => with(selector(args), |volunteer| Command::Deny { volunteer }),
            Self::Drain(args) => with(selector(args), |volunteer| Command::Drain { volunteer, on: true }),
            Self::Stay(args) => with(selector(args), |volunteer| Command::Drain { volunteer, on: false }),
            Self::ForgetVolunteer { volunteer, yes } => {
                with(selector(volunteer), |volunteer| Command::ForgetVolunteer { volunteer, yes })
            }
            Self::Recall(args) => with(wanted(args), |file| Command::Recall { file }),
            Self::Offload { file, dry_run } => with(wanted(file), |file| Command::Offload { file, dry_run }),
            Self::Forget { file, yes, dry_run } => {
                with(wanted(file), |file| Command::Forget { file, yes, dry_run })
            }
            Self::Verify(args) => with(wanted(args), |file| Command::Verify { file }),
        }
    }
}

fn with<T>(
    (named, control): (T, ControlFlags),
    command: impl FnOnce(T) -> Command,
) -> (Command, ControlFlags) {
    (command(named), control)
}
