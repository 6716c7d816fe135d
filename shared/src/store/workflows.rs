//! Workflows and their versions.
