//! Does what the plan of a Job says.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::clock;
use informer::{Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt as _};

use super::plan::{Decision, Ending, Run, announce, announced, decide, is_needed, ready};
use super::pod::new_pod;
use super::tracking::{Tally, count, count_as_failed, set_counts, set_suspended, tally, usefulness};
use super::{FAILURES, condition, ending, free, outcome};
use crate::toolkit::controller::Reconcile;
use crate::toolkit::status::patch_status_of_version;
use crate::toolkit::{Context, Result, adoption, ignore, pods};

pub(super) struct JobController {
    pub(super) context: Context,
    pub(super) jobs: Informer<Job>,
    pub(super) pods: Informer<Pod>,
}

impl Reconcile for JobController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(job) = self.jobs.get(key) else { return Ok(None) };
        let (Some(spec), Some(uid)) = (&job.spec, job.uid()) else { return Ok(None) };
        if spec.managed_by.as_ref().is_some_and(|m| m != "kubernetes.io/job-controller") {
            return Ok(None);
        }
        let is_deleted = job.metadata.deletion_timestamp.is_some();
        if !is_deleted && ending(&job).is_none() {
            adoption::adopt_and_release(&self.context, &self.pods, job.as_ref(), |_| true).await?;
        }
        let mine = pods::owned(&self.pods, &key.namespace, &uid);
        if is_deleted || ending(&job).is_some() {
            for pod in &mine {
                free(&self.context, pod).await?;
            }
            return if is_deleted { Ok(None) } else { self.expire(&job, spec).await };
        }
        let mut status = job.status.clone().unwrap_or_default();
        count(spec, &mut status, &mine);
        let tally = tally(spec, &status, &mine);
        let now = clock::now();
        if status.start_time.is_none() && spec.suspend != Some(true) {
            status.start_time = Some(Time(now));
        }
        let age = status.start_time.as_ref().map(|t| now.duration_since(t.0));
        let decision = announced(&status).unwrap_or_else(|| decide(spec, &tally, age));
        set_counts(spec, &mut status, &tally);
        let mut again = None;
        let ends = !matches!(decision, Decision::Run(_));
        match decision {
            Decision::Run(run) => {
                let turned = set_suspended(&mut status, spec.suspend == Some(true), now);
                self.write_status(&job, &status).await?;
                if let Some((reason, message)) = turned {
                    self.context.events.normal(job.as_ref(), reason, message);
                }
                again = self.run(&job, spec, &mine, run, &tally).await?;
                if let (Some(deadline), Some(age)) = (spec.active_deadline_seconds, age) {
                    let left = clock::seconds(deadline.saturating_sub(age.as_secs()).saturating_add(1));
                    again = Some(again.map_or(left, |a: Duration| a.min(left)));
                }
            }
            ended => self.end(&job, spec, &mut status, &mine, ended, now).await?,
        }
        // Only now that they stand in the status may they go.
        for pod in mine.iter().filter(|p| outcome(spec, p).is_some() && (ends || !is_needed(spec, &tally, &mine, p))) {
            free(&self.context, pod).await?;
        }
        Ok(again)
    }
}

impl JobController {
    fn api(&self, job: &Job) -> Api<Job> {
        Api::namespaced(self.context.client.clone(), &job.namespace().unwrap_or_default())
    }

    /// Creates and deletes pods.
    async fn run(
        &self,
        job: &Job,
        spec: &JobSpec,
        mine: &[Arc<Pod>],
        run: Run,
        tally: &Tally,
    ) -> Result<Option<Duration>> {
        let Run { create, indexes, delete } = run;
        if delete > 0 {
            let mut active: Vec<&Arc<Pod>> = mine.iter().filter(|p| pods::is_active(p)).collect();
            let is_wanted = |p: &Pod| !p.metadata.uid.as_ref().is_some_and(|uid| tally.surplus.contains(uid));
            active.sort_by_key(|p| (is_wanted(p), usefulness(p)));
            for pod in active.into_iter().take(delete) {
                // It hasn't failed, so it isn't counted.
                free(&self.context, pod).await?;
                pods::delete_and_record(&self.context, &self.pods, job, pod).await?;
            }
        }
        if create == 0 {
            return Ok(None);
        }
        let (create, indexes) = match ready(spec, mine, create, &indexes, clock::now()) {
            Ok(ready) => ready,
            Err(left) => return Ok(Some(Duration::try_from(left).unwrap_or_default() + Duration::from_millis(50))),
        };
        let new = (0..create).map(|i| {
            let index = indexes.get(i).copied();
            let mut pod = new_pod(job, spec, index);
            if let Some(index) = index.filter(|_| spec.backoff_limit_per_index.is_some()) {
                let failures = tally.failures.get(&index).copied().unwrap_or(0).to_string();
                pod.metadata.annotations.get_or_insert_default().insert(FAILURES.into(), failures);
            }
            pod
        });
        pods::create_all(&self.context, &self.pods, job, new).await.map_or(Ok(None), Err)
    }

    /// Ends a Job: its pods are ended first; the last condition comes when none is left at work.
    async fn end(
        &self,
        job: &Job,
        spec: &JobSpec,
        status: &mut JobStatus,
        mine: &[Arc<Pod>],
        decision: Decision,
        now: Timestamp,
    ) -> Result {
        let at_work: Vec<&Arc<Pod>> = mine.iter().filter(|p| outcome(spec, p).is_none()).collect();
        if matches!(decision, Decision::Fail(..)) {
            count_as_failed(spec, status, &at_work);
        }
        match announce(status, &decision, at_work.is_empty(), now) {
            Some(Ending::Complete) => {
                if let (Some(wanted), Some(had)) = (spec.completions, status.succeeded)
                    && had > wanted
                {
                    let text = format!("Too many succeeded pods: {had}, expected: {wanted}");
                    self.context.events.warning(job, "TooManySucceededPods", text);
                }
                self.context.events.normal(job, "Completed", "Job completed");
            }
            Some(Ending::Failed(reason, message)) => self.context.events.warning(job, reason, message),
            None => {}
        }
        self.write_status(job, status).await?;
        for pod in at_work {
            // It stands in the status, or its end no longer counts.
            free(&self.context, pod).await?;
            if !pods::is_deleting(pod) {
                pods::delete_and_record(&self.context, &self.pods, job, pod).await?;
            }
        }
        Ok(())
    }

    async fn write_status(&self, job: &Job, status: &JobStatus) -> Result {
        // On the version that was looked at, as what it counts is of that one.
        let version = patch_status_of_version(&self.context, job, job.status.as_ref(), status).await?;
        if version.is_some() {
            let is_shown = |j: Option<&Job>| j.is_none_or(|j| j.resource_version() == version || j.uid() != job.uid());
            self.jobs.wait_for(&job.key(), is_shown).await;
        }
        Ok(())
    }

    /// Deletes a Job that ended `ttlSecondsAfterFinished` ago.
    async fn expire(&self, job: &Job, spec: &JobSpec) -> Result<Option<Duration>> {
        let (Some(ttl), Some(status)) = (spec.ttl_seconds_after_finished, &job.status) else { return Ok(None) };
        let ended =
            ["Complete", "Failed"].into_iter().find_map(|k| condition(status, k)?.last_transition_time.as_ref());
        let Some(ended) = ended else { return Ok(None) };
        let left = i64::from(ttl).saturating_sub(clock::now().duration_since(ended.0).as_secs());
        if left > 0 {
            return Ok(Some(clock::seconds(left)));
        }
        // Only this Job as it is here: a user may have given it more time, or another Job its name.
        let this = Preconditions { uid: job.uid(), resource_version: job.resource_version() };
        let delete = DeleteParams { preconditions: Some(this), ..DeleteParams::foreground() };
        ignore(self.api(job).delete(&job.name_any(), &delete).await, &[404, 409])?;
        Ok(None)
    }
}
