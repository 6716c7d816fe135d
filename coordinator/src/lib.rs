//! REST API, dispatcher, finisher and rescuer.

pub mod api;
