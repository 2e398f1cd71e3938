//! Timetables.
