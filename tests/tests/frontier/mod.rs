//! The coordinator's side of the store against a real Postgres: what is dispatched, when an execution has ended, and
//! what is rescued.

mod budgets;
mod dispatch;
mod finish;
mod politeness;
mod rescue;
