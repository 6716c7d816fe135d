//! Executions: started, watched, cancelled.
