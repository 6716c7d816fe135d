//! REST API, dispatcher, finisher and rescuer.
