//! Workflows: the model that everything runs on, and how a user's JSON becomes one.
//!
//! The model is what a workflow *means*, whatever generation of the format it was written in. A value of these types
//! is valid by construction: parsing reports every problem at once, each with a JSON pointer (RFC 6901).

mod model;

pub use model::*;
