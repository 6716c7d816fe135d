//! The coordinator's side of the store against a real Postgres: what is dispatched, when an execution has ended, what is
//! rescued, what people change on the way, and what schedules start.

mod budgets;
mod control;
mod dispatch;
mod finish;
mod lanes;
mod limiters;
mod many_workers;
mod on_the_way;
mod paces;
mod places;
mod politeness;
mod publishing;
mod refusals;
mod rescue;
mod retry;
mod schedules;
mod unreachable;
