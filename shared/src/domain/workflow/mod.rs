//! Workflows: the model that everything runs on, and how a user's JSON becomes one.
//!
//! The model is what a workflow *means*, whatever generation of the format it was written in. A value of these types
//! is valid by construction: parsing reports every problem at once, each with a JSON pointer (RFC 6901).

mod act;
mod action;
mod budgets;
mod definition;
mod extract;
mod headers;
mod limits;
mod loading;
mod model;
mod node;
mod order;
mod problem;
mod proxy;
mod reader;
mod robots;
mod scheduling;
mod secrets;
mod settings;
pub mod suggest;
mod text;
mod traps;

pub use act::{Act, ScrollTo, Target};
pub use budgets::{BudgetChanges, Budgets, PathBudget, parse_budget_changes};
pub use definition::{Definition, STATUSES, parse_document, parse_text};
pub use headers::Headers;
pub use model::*;
pub use problem::Problem;
pub use proxy::{Proxy, ProxyCredentials, ProxyKind};
pub use scheduling::Share;
pub use secrets::{HIDDEN, hide_secrets, is_plain_header, restore_secrets};
pub use settings::{MAX_NODES, parse_config};
pub use traps::Traps;

#[cfg(test)]
mod tests;
