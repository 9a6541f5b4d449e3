//! CronJobs: Jobs by the clock.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::clock;
use apimachinery::cron::Schedule;
use informer::{Informer, Key, Keyed as _};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Resource as _, ResourceExt as _};

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result, ignore, pods};
use crate::workloads::job;

/// More missed times than this deserve a warning.
const MISSED_TIMES_WARNING: i64 = 100;
/// Times that are looked through at the most, from about the last but one.
const LOOKED_THROUGH: usize = 100_000;
/// On a Job: when it was due.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// The latest time that is due and may still be started.
    run: Option<Timestamp>,
    /// When to look again.
    next: Option<Timestamp>,
    too_many: bool,
}

/// What is due at `now`, if the schedule was last followed at `last`. Of times that were missed the latest alone is made up for; how many
/// there were is estimated from the first two, as upstream does (`mostRecentScheduleTime`).
fn plan(schedule: &Schedule, last: Timestamp, now: Timestamp, deadline: Option<i64>) -> Plan {
    // What is later than the deadline allows is never started; so it isn't looked through either.
    let horizon = deadline.map(|s| clock::moved(now, SignedDuration::from_secs(s.saturating_neg())));
    let from = horizon.map_or(last, |horizon| horizon.max(last));
    let nothing = |next: Option<Timestamp>| Plan { run: None, next, too_many: false };
    let Some(first) = schedule.next(from).filter(|first| *first <= now) else { return nothing(schedule.next(from)) };
    let Some(second) = schedule.next(first).filter(|second| *second <= now) else {
        return Plan { run: Some(first), next: schedule.next(first), too_many: false };
    };
    let apart = second.duration_since(first).as_secs().max(1);
    let missed = now.duration_since(first).as_secs() / apart + 1;
    // Looked for from the last but one on, in whole steps from the first, so that `@every` stays in step; from further and further back
    // where times aren't evenly apart.
    let mut back: i64 = 2;
    let run = loop {
        let steps = missed.saturating_sub(back).max(0);
        let near = clock::moved(first, SignedDuration::from_secs(apart.saturating_mul(steps)));
        let due = std::iter::successors(schedule.next(near), |at| schedule.next(*at)).take_while(|at| *at <= now);
        match due.take(LOOKED_THROUGH).last() {
            None if steps > 0 => back = back.saturating_mul(2),
            None => break Some(second),
            found => break found,
        }
    };
    Plan { run, next: schedule.next(now), too_many: missed > MISSED_TIMES_WARNING }
}

/// A time as the zone's clock shows it; UTC is `Z`.
fn in_zone(at: Timestamp, zone: Option<&str>) -> String {
    match apimachinery::cron::time_zone(zone.unwrap_or("")) {
        Ok(zone) if zone != TimeZone::UTC => at.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        _ => clock::format_rfc3339(at),
    }
}

pub fn start(context: Context) {
    let (crons, jobs) = (context.informers.of::<CronJob>(), context.informers.of::<Job>());
    let mut controller = Controller::of(&context, &crons);
    controller.watch(&jobs, |change| pods::controller_key(&change.object().metadata, "CronJob"));
    controller.run("cronjob", 2, CronJobController { context, crons, jobs });
}

/// Whether a Job that was created by schedule hasn't ended. A Job that a user created from the same template doesn't count for the
/// schedule.
fn is_at_work(job: &Job) -> bool {
    job::ending(job).is_none() && job.annotations().contains_key(SCHEDULED)
}

struct CronJobController {
    context: Context,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
}

impl Reconcile for CronJobController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(cron) = self.crons.get(key) else { return Ok(None) };
        let (spec, Some(uid)) = (&cron.spec, cron.uid()) else { return Ok(None) };
        if cron.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mine: Vec<Arc<Job>> =
            self.jobs.list_in(&key.namespace).into_iter().filter(|j| pods::is_owned_by(&j.metadata, &uid)).collect();
        let mut last = cron.status.as_ref().and_then(|s| s.last_schedule_time.as_ref().map(|t| t.0));
        self.prune(&cron, spec, &mine).await?;
        if let Some(zone) = spec.time_zone.as_deref()
            && let Err(why) = apimachinery::cron::time_zone(zone)
        {
            let text = format!("invalid timeZone: {zone:?}: {why}");
            self.context.events.warning(cron.as_ref(), "UnknownTimeZone", text);
            return Ok(None);
        }
        let schedule = match Schedule::read(&spec.schedule, spec.time_zone.as_deref()) {
            Ok(schedule) => schedule,
            Err(why) => {
                let text = format!("unparseable schedule: {:?} : {why}", spec.schedule);
                self.context.events.warning(cron.as_ref(), "UnparseableSchedule", text);
                return Ok(None);
            }
        };
        let now = clock::now();
        let since = last.or_else(|| cron.metadata.creation_timestamp.as_ref().map(|t| t.0)).unwrap_or(now);
        self.record_missing(&cron, &mine);
        let plan = plan(&schedule, since, now, spec.starting_deadline_seconds);
        if plan.too_many {
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.context.events.warning(cron.as_ref(), "TooManyMissedTimes", text);
        }
        if let Some(due) = plan.run.filter(|_| spec.suspend != Some(true))
            && self.may_start(&cron, spec, &mine).await?
        {
            self.create(&cron, spec, due).await?;
            last = Some(due);
        }
        let mine: Vec<Arc<Job>> =
            self.jobs.list_in(&key.namespace).into_iter().filter(|j| pods::is_owned_by(&j.metadata, &uid)).collect();
        self.write_status(&cron, &mine, last).await?;
        if spec.suspend == Some(true) {
            return Ok(None);
        }
        let wait = plan.next.map(|n| n.duration_since(now));
        Ok(wait.and_then(|w| Duration::try_from(w).ok()).map(|w| w + Duration::from_millis(20)))
    }
}

impl CronJobController {
    /// Tells of Jobs that went away before they had ended, and not by the schedule's doing.
    fn record_missing(&self, cron: &CronJob, mine: &[Arc<Job>]) {
        let active = cron.status.iter().flat_map(|status| status.active.iter().flatten());
        for missing in active.filter(|of| !mine.iter().any(|job| job.uid() == of.uid)) {
            let text = format!("Active job went missing: {}", missing.name.as_deref().unwrap_or_default());
            self.context.events.warning(cron, "MissingJob", text);
        }
    }

    /// What the concurrency policy says, carried out.
    async fn may_start(&self, cron: &CronJob, spec: &CronJobSpec, mine: &[Arc<Job>]) -> Result<bool> {
        let active: Vec<&Arc<Job>> = mine.iter().filter(|j| is_at_work(j)).collect();
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.context.events.normal(cron, "JobAlreadyActive", text);
                Ok(false)
            }
            Some("Replace") => {
                for job in active {
                    self.delete(cron, job).await?;
                }
                Ok(true)
            }
            _ => Ok(true),
        }
    }

    async fn delete(&self, cron: &CronJob, job: &Job) -> Result {
        let api: Api<Job> = Api::namespaced(self.context.client.clone(), &job.namespace().unwrap_or_default());
        let this = Preconditions { uid: job.uid(), resource_version: None };
        let delete = DeleteParams { preconditions: Some(this), ..DeleteParams::background() };
        ignore(api.delete(&job.name_any(), &delete).await, &[404, 409])?;
        self.context.events.normal(cron, "SuccessfulDelete", format!("Deleted job {}", job.name_any()));
        let (key, uid) = (job.key(), job.uid());
        self.jobs.wait_for(&key, |j| j.is_none_or(|j| j.uid() != uid || j.metadata.deletion_timestamp.is_some())).await;
        Ok(())
    }

    /// Creates a Job whose name has the scheduled time, so that no time gets two Jobs.
    async fn create(&self, cron: &CronJob, spec: &CronJobSpec, due: Timestamp) -> Result {
        let name = format!("{}-{}", cron.name_any(), due.as_second() / 60);
        let template = spec.job_template.clone();
        let meta = template.metadata.unwrap_or_default();
        let mut annotations = meta.annotations.unwrap_or_default();
        annotations.insert(SCHEDULED.into(), in_zone(due, spec.time_zone.as_deref()));
        let job = Job {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: cron.namespace(),
                labels: meta.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![pods::owner(cron)]),
                ..ObjectMeta::default()
            },
            spec: template.spec,
            status: None,
        };
        let api: Api<Job> = Api::namespaced(self.context.client.clone(), &cron.namespace().unwrap_or_default());
        match api.create(&PostParams::default(), &job).await {
            Ok(created) => {
                self.context.events.normal(cron, "SuccessfulCreate", format!("Created job {name}"));
                let uid = created.uid();
                self.jobs.wait_for(&created.key(), |j| j.is_some_and(|j| j.uid() == uid)).await;
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) if pods::is_of_namespace_that_ends(&error) => Err(error),
            Err(error) => {
                self.context.events.warning(
                    cron,
                    "FailedCreate",
                    format!("Error creating job: {}", informer::error_message(&error)),
                );
                Err(error)
            }
        }
    }

    /// Keeps as many ended Jobs as the limits say.
    async fn prune(&self, cron: &CronJob, spec: &CronJobSpec, mine: &[Arc<Job>]) -> Result {
        let limits = [
            ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
        ];
        for (ending, limit) in limits {
            let is_old = |j: &&Arc<Job>| job::ending(j) == Some(ending) && j.metadata.deletion_timestamp.is_none();
            let mut ended: Vec<&Arc<Job>> = mine.iter().filter(is_old).collect();
            ended.sort_by_key(|j| j.metadata.creation_timestamp.as_ref().map(|t| t.0));
            let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in ended.into_iter().take(surplus) {
                self.delete(cron, job).await?;
            }
        }
        Ok(())
    }

    async fn write_status(&self, cron: &CronJob, mine: &[Arc<Job>], last: Option<Timestamp>) -> Result {
        let at_work = mine.iter().filter(|j| is_at_work(j) && j.metadata.deletion_timestamp.is_none());
        let reference = |j: &Arc<Job>| ObjectReference { resource_version: j.resource_version(), ..j.object_ref(&()) };
        let active: Vec<ObjectReference> = at_work.map(reference).collect();
        let successes = mine.iter().filter_map(|j| j.status.as_ref()?.completion_time.as_ref().map(|t| t.0));
        let before = cron.status.clone().unwrap_or_default();
        let latest = successes.chain(before.last_successful_time.as_ref().map(|t| t.0)).max();
        for foreign in mine.iter().filter(|j| job::ending(j).is_none() && !is_at_work(j)) {
            let text = format!("Saw a job that the controller did not create or forgot: {}", foreign.name_any());
            self.context.events.warning(cron, "UnexpectedJob", text);
        }
        for ended in mine.iter().filter(|j| before.active.iter().flatten().any(|a| a.uid == j.uid())) {
            if let Some(condition) = job::ending(ended) {
                let text = format!("Saw completed job: {}, condition: {condition}", ended.name_any());
                self.context.events.normal(cron, "SawCompletedJob", text);
            }
        }
        // A Job that goes on being changed is the same Job: its version alone is no reason to write.
        let uids = |list: &[ObjectReference]| list.iter().map(|a| a.uid.clone()).collect::<Vec<_>>();
        let known = before.active.clone().unwrap_or_default();
        let active = if uids(&known) == uids(&active) { known } else { active };
        let status = CronJobStatus {
            active: Some(active).filter(|active| !active.is_empty()),
            last_schedule_time: last.map(Time),
            last_successful_time: latest.map(Time),
        };
        let version = patch_status_if_changed(&self.context, cron, cron.status.as_ref(), &status).await?;
        if version.is_some() {
            let uid = cron.uid();
            let is_shown = |c: Option<&CronJob>| c.is_none_or(|c| c.resource_version() == version || c.uid() != uid);
            self.crons.wait_for(&cron.key(), is_shown).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn only_the_latest_missed_time_is_made_up_for_and_only_within_the_deadline() {
        let minutely = Schedule::read("* * * * *", None).unwrap();
        let (last, now) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:03:30Z"));
        let all = plan(&minutely, last, now, None);
        assert_eq!((all.run, all.next), (Some(at("2026-01-01T00:03:00Z")), Some(at("2026-01-01T00:04:00Z"))));
        assert_eq!(plan(&minutely, last, now, Some(10)).run, None);
        assert_eq!(plan(&minutely, last, now, Some(60)).run, Some(at("2026-01-01T00:03:00Z")));
        let long = plan(&minutely, at("2025-01-01T00:00:00Z"), now, None);
        assert!(long.too_many);
        assert_eq!(long.run, Some(at("2026-01-01T00:03:00Z")));
    }

    #[test]
    fn the_latest_of_many_missed_times_is_found_however_far_apart_they_are() {
        for (schedule, last, now, run, too_many) in [
            ("*/15 * * * *", "2026-01-01T00:00:00Z", "2026-01-02T00:50:00Z", "2026-01-02T00:45:00Z", false),
            ("*/15 * * * *", "2026-01-01T00:00:00Z", "2026-01-02T02:50:00Z", "2026-01-02T02:45:00Z", true),
            // Steps that aren't even: the last before the weekend.
            ("30 6-16/4 * * 1-5", "2026-01-01T12:00:00Z", "2026-01-11T12:00:00Z", "2026-01-09T14:30:00Z", false),
            // Dense at first, then rare; and the other way round.
            ("* * 1 1 *", "2024-12-31T23:58:00Z", "2026-01-01T00:01:30Z", "2026-01-01T00:01:00Z", true),
            ("* * 1 1 *", "2025-01-01T23:58:00Z", "2026-06-01T00:00:00Z", "2026-01-01T23:59:00Z", false),
            ("@every 7m", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z", "2026-01-01T00:56:00Z", false),
        ] {
            let found = plan(&Schedule::read(schedule, None).unwrap(), at(last), at(now), None);
            assert_eq!((found.run, found.too_many), (Some(at(run)), too_many), "{schedule} from {last} to {now}");
            assert!(found.next.is_some_and(|next| next > at(now)));
        }
        // Neither a deadline nor a clock that is off by ages ends in anything but a plan.
        let minutely = Schedule::read("* * * * *", None).unwrap();
        for deadline in [Some(i64::MAX), Some(i64::MIN), Some(0), None] {
            for (last, now) in [(Timestamp::MIN, Timestamp::MAX), (Timestamp::MAX, Timestamp::MIN)] {
                let _ = plan(&minutely, last, now, deadline);
            }
        }
    }

    #[test]
    fn a_job_says_when_it_was_due_in_the_zone_of_its_schedule() {
        let due = at("2026-07-01T05:30:00Z");
        assert_eq!(in_zone(due, None), "2026-07-01T05:30:00Z");
        assert_eq!(in_zone(due, Some("Europe/Madrid")), "2026-07-01T07:30:00+02:00");
        assert_eq!(in_zone(due, Some("America/St_Johns")), "2026-07-01T03:00:00-02:30");
    }
}
