//! Kinds of `batch`.

pub(crate) mod cron_job;
pub(crate) mod job;
mod job_status;

const GROUP: &str = "batch";

/// Those that pods of Jobs may have.
const RESTART_POLICIES: &[&str] = &["OnFailure", "Never"];

table! {
    CRON_JOBS = cron_job;
    JOBS = job;
}
