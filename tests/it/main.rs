//! Integration tests: the real programs over real sockets, with a module for each subject.
//!
//! They form one binary because linking takes seconds. `threads.rs` counts the threads of its process and is separate.

mod architecture;
mod bad_clients;
mod bad_input;
mod bad_network;
mod bad_peers;
mod chunk_folders;
mod command_line;
mod common;
mod crashes;
mod datagrams;
mod dependencies;
mod devices;
mod discovery;
mod disks;
mod exit_codes;
mod hostile_volunteers;
mod hosts;
mod interruptions;
mod keeping;
mod lists;
mod liveness;
mod logs;
mod manager;
mod members;
mod networks;
mod owner_commands;
mod part_files;
mod pipes;
mod program_exits;
mod progress;
mod prompt;
mod seeding;
mod selection;
mod serving;
mod status;
mod ticket_downloads;
mod tickets;
mod timeouts;
mod transcripts;
mod trees;
mod verify;
mod volunteers;
mod waiting;
