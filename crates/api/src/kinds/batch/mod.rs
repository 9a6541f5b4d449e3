//! Kinds of `batch`.

pub(crate) mod cron_job;
pub(crate) mod job;

const GROUP: &str = "batch";

table! {
    CRON_JOBS = cron_job;
    JOBS = job;
}
