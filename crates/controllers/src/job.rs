//! Jobs: pods that run to their end, counted once each.
//!
//! A pod of a Job carries a finalizer until it is counted, so that no end is missed whoever deletes the pod and whenever
//! this process dies. Counting goes in steps, each of which may be the last before a crash: the uid is written to
//! `uncountedTerminatedPods`; the finalizer is removed; the uid is taken out and the counter raised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::ranges;
use informer::{Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, PodFailurePolicyRule, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::{Context, Result, owned, pods};

pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// On a pod of an index: how many before it failed.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// First and longest wait before pods that failed are replaced.
const BACKOFF: (i64, i64) = (10, 600);
/// Pods that one round creates at the most.
const BURST: usize = 500;

pub fn start(context: Context) {
    let (jobs, all_pods, queue) = pods::follow::<Job>(&context);
    queue.work("job", 4, move |key| {
        let (context, jobs, all_pods) = (context.clone(), jobs.clone(), all_pods.clone());
        async move {
            informer::synced!(jobs, all_pods);
            Work { context: &context, jobs: &jobs, pods: &all_pods }.reconcile(&key).await
        }
    });
}

pub fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a k8s_openapi::api::batch::v1::JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")
}

/// Whether a Job has come to its end: `Complete` or `Failed`.
pub fn ending(job: &Job) -> Option<&str> {
    let status = job.status.as_ref()?;
    ["Complete", "Failed"].into_iter().find(|kind| condition(status, kind).is_some())
}

fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok()
}

/// How a pod has ended, for the counters; a pod on its way out that never ended counts as failed once it is.
fn outcome(pod: &Pod) -> Option<bool> {
    match pods::phase(pod) {
        "Succeeded" => Some(true),
        "Failed" => Some(false),
        _ => None,
    }
}

/// What the pod failure policy says of a failed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Count,
    Ignore,
    FailJob(String),
    FailIndex,
}

fn judge(rules: &[PodFailurePolicyRule], pod: &Pod) -> Verdict {
    let status = pod.status.clone().unwrap_or_default();
    for (number, rule) in rules.iter().enumerate() {
        let by_code = rule.on_exit_codes.as_ref().and_then(|codes| {
            let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
            statuses
                .filter(|c| codes.container_name.as_ref().is_none_or(|n| *n == c.name))
                .filter_map(|c| Some((c.name.clone(), c.state.as_ref()?.terminated.as_ref()?.exit_code)))
                .find(|(_, code)| *code != 0 && (codes.operator == "In") == codes.values.contains(code))
        });
        let by_condition = rule.on_pod_conditions.iter().flatten().any(|wanted| {
            let fits = |c: &informer::pod::PodCondition| {
                c.type_ == wanted.type_ && Some(c.status.as_str()) == wanted.status.as_deref().or(Some("True"))
            };
            status.conditions.iter().flatten().any(fits)
        });
        if by_code.is_none() && !by_condition {
            continue;
        }
        let why = by_code.map_or_else(String::new, |(name, code)| {
            let pod = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
            format!(
                "Container {name} for pod {pod} failed with exit code {code} matching FailJob rule at index {number}"
            )
        });
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailJob" => Verdict::FailJob(why),
            "FailIndex" => Verdict::FailIndex,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// The state of a Job as far as deciding goes.
#[derive(Debug, Clone, Default)]
struct Tally {
    succeeded: i32,
    failed: i32,
    /// Indexes that are done, and those that are given up.
    completed: BTreeSet<i32>,
    given_up: BTreeSet<i32>,
    /// Indexes of pods that are at work.
    active_indexes: BTreeSet<i32>,
    /// How often each index failed. Its pods carry the count, so it outlives those that are deleted.
    failures: BTreeMap<i32, i32>,
    active: i32,
    ready: i32,
    terminating: i32,
    /// Restarts of containers, which count against the limit when pods restart in place.
    restarts: i32,
    /// Why the failure policy ends the Job.
    fails_job: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    Complete,
    /// The success policy is met, by the rule that the text names.
    Enough(String),
    Fail(&'static str, String),
    /// So many pods more (their indexes, for indexed Jobs) or fewer.
    Run {
        create: usize,
        indexes: Vec<i32>,
        delete: usize,
    },
}

fn decide(spec: &JobSpec, tally: &Tally, age: Option<SignedDuration>) -> Decision {
    let limit = spec.backoff_limit.unwrap_or(6);
    if let Some(why) = &tally.fails_job {
        return Decision::Fail("PodFailurePolicy", why.clone());
    }
    if tally.failed > limit || (tally.restarts > 0 && tally.restarts >= limit.max(1)) {
        return Decision::Fail("BackoffLimitExceeded", "Job has reached the specified backoff limit".into());
    }
    if let (Some(deadline), Some(age)) = (spec.active_deadline_seconds, age)
        && age.as_secs() >= deadline
        && spec.suspend != Some(true)
    {
        return Decision::Fail("DeadlineExceeded", "Job was active longer than specified deadline".into());
    }
    if let Some(rule) = met(spec, &tally.completed) {
        return Decision::Enough(format!("Matched rules at index {rule}"));
    }
    let indexed = spec.completion_mode.as_deref() == Some("Indexed");
    if indexed {
        let total = spec.completions.unwrap_or(0);
        if spec.max_failed_indexes.is_some_and(|most| tally.given_up.len() as i32 > most) {
            let why = "Job has exceeded the specified maximal number of failed indexes";
            return Decision::Fail("MaxFailedIndexesExceeded", why.into());
        }
        if (tally.completed.len() + tally.given_up.len()) as i32 >= total {
            if tally.given_up.is_empty() {
                return Decision::Complete;
            }
            return Decision::Fail("FailedIndexes", "Job has failed indexes".into());
        }
    } else if let Some(completions) = spec.completions {
        if tally.succeeded >= completions {
            return Decision::Complete;
        }
    } else if tally.succeeded > 0 && tally.active == 0 && tally.terminating == 0 {
        return Decision::Complete;
    }
    let mut wanted = if spec.suspend == Some(true) { 0 } else { spec.parallelism.unwrap_or(1) };
    if indexed {
        let total = spec.completions.unwrap_or(0);
        let free = (0..total).filter(|i| {
            !tally.completed.contains(i) && !tally.given_up.contains(i) && !tally.active_indexes.contains(i)
        });
        let room = usize::try_from(wanted - tally.active).unwrap_or(0);
        let indexes: Vec<i32> = free.take(room.min(BURST)).collect();
        let delete = usize::try_from(tally.active - wanted).unwrap_or(0);
        return Decision::Run { create: indexes.len(), indexes, delete };
    }
    match spec.completions {
        Some(completions) => wanted = wanted.min(completions - tally.succeeded),
        // A work queue: once one has succeeded, no new ones are started.
        None if tally.succeeded > 0 => wanted = wanted.min(tally.active),
        None => {}
    }
    // Unless told otherwise, what is on its way out is replaced at once.
    let counted = if spec.pod_replacement_policy.as_deref() == Some("Failed") {
        tally.active + tally.terminating
    } else {
        tally.active
    };
    Decision::Run {
        create: usize::try_from(wanted - counted).unwrap_or(0).min(BURST),
        indexes: Vec::new(),
        delete: usize::try_from(tally.active - wanted).unwrap_or(0),
    }
}

/// The first rule of the success policy that the completed indexes fulfil.
fn met(spec: &JobSpec, completed: &BTreeSet<i32>) -> Option<usize> {
    spec.success_policy.as_ref()?.rules.iter().position(|rule| {
        let wanted = rule.succeeded_indexes.as_deref().map(|text| ranges::read(text).unwrap_or_default());
        let done = match &wanted {
            Some(wanted) => wanted.intersection(completed).count(),
            None => completed.len(),
        };
        match (rule.succeeded_count, &wanted) {
            (Some(count), _) => done >= usize::try_from(count).unwrap_or(usize::MAX),
            (None, Some(wanted)) => done == wanted.len() && done > 0,
            (None, None) => false,
        }
    })
}

/// How long to wait before failed pods are replaced, from the last failure.
fn backoff(failures: i32) -> SignedDuration {
    let doublings = u32::try_from(failures - 1).unwrap_or(0).min(10);
    SignedDuration::from_secs((BACKOFF.0 << doublings).min(BACKOFF.1))
}

struct Work<'a> {
    context: &'a Context,
    jobs: &'a Informer<Job>,
    pods: &'a Informer<Pod>,
}

impl Work<'_> {
    fn api(&self, job: &Job) -> Api<Job> {
        Api::namespaced(self.context.client.clone(), &job.namespace().unwrap_or_default())
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(job) = self.jobs.get(key) else { return self.free_orphans(key).await };
        let (Some(spec), Some(uid)) = (&job.spec, job.uid()) else { return Ok(None) };
        if spec.managed_by.as_ref().is_some_and(|m| m != "kubernetes.io/job-controller") {
            return Ok(None);
        }
        if job.metadata.deletion_timestamp.is_none() && ending(&job).is_none() {
            owned::claim(self.context, self.pods, job.as_ref(), |_| true).await?;
        }
        let mine = pods::owned(self.pods, &key.namespace, &uid);
        if job.metadata.deletion_timestamp.is_some() {
            for pod in &mine {
                self.free(pod).await?;
            }
            return Ok(None);
        }
        if ending(&job).is_some() {
            for pod in &mine {
                self.free(pod).await?;
            }
            return self.expire(&job, spec).await;
        }
        let mut status = job.status.clone().unwrap_or_default();
        count(spec, &mut status, &mine);
        let tally = tally(spec, &status, &mine);
        let now = apimachinery::clock::now();
        if status.start_time.is_none() && spec.suspend != Some(true) {
            status.start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        }
        let age = status.start_time.as_ref().map(|t| now.duration_since(t.0));
        let decision = match condition(&status, "FailureTarget") {
            Some(target) => {
                Decision::Fail("", target.message.clone().unwrap_or_default()).with_reason(target.reason.as_deref())
            }
            None => match condition(&status, "SuccessCriteriaMet") {
                Some(met) if met.reason.as_deref() == Some("SuccessPolicy") => {
                    Decision::Enough(met.message.clone().unwrap_or_default())
                }
                Some(_) => Decision::Complete,
                None => decide(spec, &tally, age),
            },
        };
        set_counts(spec, &mut status, &tally);
        let mut again = None;
        match decision {
            Decision::Run { create, indexes, delete } => {
                let turned = set_suspended(&mut status, spec.suspend == Some(true), now);
                self.write_status(&job, &status).await?;
                if let Some((reason, message)) = turned {
                    self.context.events.normal(job.as_ref(), reason, message);
                }
                again = self.run(&job, spec, &mine, create, &indexes, delete, &tally).await?;
                if let (Some(deadline), Some(age)) = (spec.active_deadline_seconds, age) {
                    let left = Duration::from_secs(u64::try_from(deadline - age.as_secs()).unwrap_or(0) + 1);
                    again = Some(again.map_or(left, |a: Duration| a.min(left)));
                }
            }
            ended => self.end(&job, &mut status, &mine, ended, now).await?,
        }
        // Only now that they stand in the status may they go.
        for pod in mine.iter().filter(|p| outcome(p).is_some()) {
            self.free(pod).await?;
        }
        Ok(again)
    }

    /// Lets a pod go that is counted.
    async fn free(&self, pod: &Pod) -> Result {
        if !pod.finalizers().iter().any(|f| f == FINALIZER) {
            return Ok(());
        }
        let left: Vec<&String> = pod.finalizers().iter().filter(|f| *f != FINALIZER).collect();
        let patch = Patch::Merge(json!({"metadata": {"uid": pod.uid(), "finalizers": left}}));
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &pod.namespace().unwrap_or_default());
        crate::ignore(api.patch(&pod.name_any(), &PatchParams::default(), &patch).await, &[404, 409])
    }

    /// Pods whose Job is gone are held by nobody.
    async fn free_orphans(&self, key: &Key) -> Result<Option<Duration>> {
        for pod in self.pods.list_in(&key.namespace) {
            if pods::controller_key(&pod.metadata, "Job").as_ref() == Some(key) {
                self.free(&pod).await?;
            }
        }
        Ok(None)
    }

    #[allow(clippy::too_many_arguments)]
    async fn run(
        &self,
        job: &Job,
        spec: &JobSpec,
        mine: &[Arc<Pod>],
        create: usize,
        indexes: &[i32],
        delete: usize,
        tally: &Tally,
    ) -> Result<Option<Duration>> {
        if delete > 0 {
            let mut active: Vec<&Arc<Pod>> = mine.iter().filter(|p| pods::is_active(p)).collect();
            active.sort_by_key(|p| {
                (pods::is_ready(p), p.metadata.creation_timestamp.as_ref().map(|t| std::cmp::Reverse(t.0)))
            });
            for pod in active.into_iter().take(delete) {
                pods::delete_told(self.context, self.pods, job, pod).await?;
            }
        }
        if create == 0 {
            return Ok(None);
        }
        if tally.failed > 0 {
            let failures = mine.iter().filter(|p| outcome(p) == Some(false)).filter_map(|p| ended_at(p));
            if let Some(last) = failures.max() {
                let left = backoff(tally.failed) - apimachinery::clock::now().duration_since(last);
                if left > SignedDuration::ZERO {
                    return Ok(Some(Duration::try_from(left).unwrap_or_default() + Duration::from_millis(50)));
                }
            }
        }
        let new = (0..create).map(|i| {
            let index = indexes.get(i).copied();
            let mut pod = new_pod(job, spec, index);
            if let Some(index) = index.filter(|_| spec.backoff_limit_per_index.is_some()) {
                let failures = tally.failures.get(&index).copied().unwrap_or(0).to_string();
                pod.metadata.annotations.get_or_insert_default().insert(FAILURES.into(), failures);
            }
            pod
        });
        pods::create_all(self.context, self.pods, job, new).await.map_or(Ok(None), Err)
    }

    /// Ends a Job: its pods are ended first; the last condition comes when none is left at work.
    async fn end(
        &self,
        job: &Job,
        status: &mut JobStatus,
        mine: &[Arc<Pod>],
        decision: Decision,
        now: Timestamp,
    ) -> Result {
        let at_work: Vec<&Arc<Pod>> = mine.iter().filter(|p| outcome(p).is_none()).collect();
        let (announce, last, reason, message) = match &decision {
            Decision::Fail(reason, message) => ("FailureTarget", "Failed", *reason, message.as_str()),
            Decision::Enough(message) => ("SuccessCriteriaMet", "Complete", "SuccessPolicy", message.as_str()),
            _ => ("SuccessCriteriaMet", "Complete", "CompletionsReached", "Reached expected number of succeeded pods"),
        };
        let time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        let mut add = |kind: &str| {
            let conditions = status.conditions.get_or_insert_default();
            if conditions.iter().any(|c| c.type_ == kind) {
                return false;
            }
            conditions.push(k8s_openapi::api::batch::v1::JobCondition {
                type_: kind.into(),
                status: "True".into(),
                reason: Some(reason.into()),
                message: Some(message.into()),
                last_probe_time: time.clone(),
                last_transition_time: time.clone(),
            });
            true
        };
        add(announce);
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let open = uncounted.succeeded.map_or(0, |l| l.len()) + uncounted.failed.map_or(0, |l| l.len());
        let finished = at_work.is_empty() && open == 0;
        if finished && add(last) {
            if last == "Complete" {
                status.completion_time = time;
                self.context.events.normal(job, "Completed", "Job completed");
            } else {
                self.context.events.warning(job, reason, message);
            }
            status.active = None;
            status.ready = Some(0);
            status.terminating = Some(0);
        }
        self.write_status(job, status).await?;
        for pod in at_work {
            if !pods::is_deleting(pod) {
                pods::delete(&self.context.client, self.pods, pod).await?;
            }
            // One that never ended is not waited for: its end no longer counts.
            self.free(pod).await?;
        }
        Ok(())
    }

    async fn write_status(&self, job: &Job, status: &JobStatus) -> Result {
        if job.status.as_ref() == Some(status) {
            return Ok(());
        }
        // All of it at once, on the version that was looked at: a merge couldn't take a uid out of its list.
        let new = Job { status: Some(status.clone()), ..job.clone() };
        let written = self.api(job).replace_status(&job.name_any(), &PostParams::default(), &new).await?;
        let version = written.resource_version();
        let key = job.key();
        self.jobs.wait_for(&key, |j| j.is_none_or(|j| j.resource_version() == version || j.uid() != job.uid())).await;
        Ok(())
    }

    /// Deletes a Job whose time after its end is over.
    async fn expire(&self, job: &Job, spec: &JobSpec) -> Result<Option<Duration>> {
        let (Some(ttl), Some(status)) = (spec.ttl_seconds_after_finished, &job.status) else { return Ok(None) };
        let ended =
            ["Complete", "Failed"].into_iter().find_map(|k| condition(status, k)?.last_transition_time.as_ref());
        let Some(ended) = ended else { return Ok(None) };
        let left = i64::from(ttl) - apimachinery::clock::now().duration_since(ended.0).as_secs();
        if left > 0 {
            return Ok(Some(Duration::from_secs(left as u64)));
        }
        crate::ignore(self.api(job).delete(&job.name_any(), &DeleteParams::foreground()).await, &[404])?;
        Ok(None)
    }
}

impl Decision {
    /// The reason as one of those that are known; conditions hold them as text.
    fn with_reason(self, reason: Option<&str>) -> Self {
        const REASONS: [&str; 5] = [
            "BackoffLimitExceeded",
            "DeadlineExceeded",
            "PodFailurePolicy",
            "MaxFailedIndexesExceeded",
            "FailedIndexes",
        ];
        let known = REASONS.into_iter().find(|r| Some(*r) == reason).unwrap_or("BackoffLimitExceeded");
        match self {
            Decision::Fail(_, message) => Decision::Fail(known, message),
            other => other,
        }
    }
}

fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ends = statuses.iter().filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|t| t.0));
    ends.max()
}

/// Steps one and three of the count, on the status that is about to be written.
fn count(spec: &JobSpec, status: &mut JobStatus, mine: &[Arc<Pod>]) {
    let by_uid: BTreeMap<String, &Arc<Pod>> = mine.iter().filter_map(|p| Some((p.uid()?, p))).collect();
    let held = |uid: &String| by_uid.get(uid).is_some_and(|p| p.finalizers().iter().any(|f| f == FINALIZER));
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    for (list, counter) in
        [(&mut uncounted.succeeded, &mut status.succeeded), (&mut uncounted.failed, &mut status.failed)]
    {
        let list = list.get_or_insert_default();
        let before = list.len();
        list.retain(held);
        let counted = (before - list.len()) as i32;
        *counter = Some(counter.unwrap_or(0) + counted).filter(|n| *n > 0);
    }
    for pod in mine {
        let (Some(uid), Some(succeeded)) = (pod.uid(), outcome(pod)) else { continue };
        if !succeeded && judge(rules(spec), pod) == Verdict::Ignore {
            continue;
        }
        let list = if succeeded { &mut uncounted.succeeded } else { &mut uncounted.failed };
        let list = list.get_or_insert_default();
        if held(&uid) && !list.contains(&uid) {
            list.push(uid);
        }
    }
    for list in [&mut uncounted.succeeded, &mut uncounted.failed] {
        *list = list.take().filter(|l| !l.is_empty());
    }
    status.uncounted_terminated_pods = Some(uncounted);
}

fn rules(spec: &JobSpec) -> &[PodFailurePolicyRule] {
    spec.pod_failure_policy.as_ref().map(|p| p.rules.as_slice()).unwrap_or_default()
}

fn tally(spec: &JobSpec, status: &JobStatus, mine: &[Arc<Pod>]) -> Tally {
    let empty = UncountedTerminatedPods::default();
    let uncounted = status.uncounted_terminated_pods.as_ref().unwrap_or(&empty);
    let open = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len) as i32;
    let mut tally = Tally {
        succeeded: status.succeeded.unwrap_or(0) + open(&uncounted.succeeded),
        failed: status.failed.unwrap_or(0) + open(&uncounted.failed),
        completed: ranges::read(status.completed_indexes.as_deref().unwrap_or("")).unwrap_or_default(),
        given_up: ranges::read(status.failed_indexes.as_deref().unwrap_or("")).unwrap_or_default(),
        ..Tally::default()
    };
    for pod in mine {
        let index = index_of(pod);
        if let Some(index) = index {
            let before = pod.annotations().get(FAILURES).and_then(|n| n.parse::<i32>().ok()).unwrap_or(0);
            let counts = outcome(pod) == Some(false) && judge(rules(spec), pod) != Verdict::Ignore;
            let failures = tally.failures.entry(index).or_default();
            *failures = (*failures).max(before + i32::from(counts));
        }
        match outcome(pod) {
            Some(true) => tally.completed.extend(index),
            Some(false) => match judge(rules(spec), pod) {
                Verdict::Ignore => {}
                Verdict::FailJob(why) => tally.fails_job = Some(why),
                Verdict::FailIndex => tally.given_up.extend(index),
                Verdict::Count => {}
            },
            None if pods::is_deleting(pod) => tally.terminating += 1,
            None => {
                tally.active += 1;
                tally.ready += i32::from(pods::is_ready(pod));
                tally.active_indexes.extend(index);
                let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
                tally.restarts += statuses.into_iter().flatten().map(|c| c.restart_count).sum::<i32>();
            }
        }
    }
    if let Some(limit) = spec.backoff_limit_per_index {
        tally.given_up.extend(tally.failures.iter().filter(|(_, n)| **n > limit).map(|(i, _)| *i));
    }
    tally.given_up.retain(|i| !tally.completed.contains(i));
    tally
}

fn set_counts(spec: &JobSpec, status: &mut JobStatus, tally: &Tally) {
    status.active = (tally.active > 0).then_some(tally.active);
    status.ready = Some(tally.ready);
    status.terminating = Some(tally.terminating);
    if spec.completion_mode.as_deref() == Some("Indexed") {
        status.completed_indexes = Some(ranges::write(&tally.completed)).filter(|t| !t.is_empty());
        if spec.backoff_limit_per_index.is_some() {
            status.failed_indexes = Some(ranges::write(&tally.given_up));
        }
    }
}

/// Says whether a Job is suspended; returns what there is to tell if that is new.
fn set_suspended(status: &mut JobStatus, suspended: bool, now: Timestamp) -> Option<(&'static str, &'static str)> {
    let time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
    let conditions = status.conditions.get_or_insert_default();
    let present = conditions.iter().position(|c| c.type_ == "Suspended");
    let text = if suspended { "True" } else { "False" };
    let turned = match present {
        Some(at) => conditions[at].status != text,
        None => suspended,
    };
    if turned {
        let (reason, message) =
            if suspended { ("JobSuspended", "Job suspended") } else { ("JobResumed", "Job resumed") };
        let condition = k8s_openapi::api::batch::v1::JobCondition {
            type_: "Suspended".into(),
            status: text.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: time.clone(),
            last_transition_time: time.clone(),
        };
        match present {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
        // The deadline counts from the resumption.
        status.start_time = time.filter(|_| !suspended);
    }
    if conditions.is_empty() {
        status.conditions = None;
    }
    turned.then_some(if suspended { ("Suspended", "Job suspended") } else { ("Resumed", "Job resumed") })
}

fn new_pod(job: &Job, spec: &JobSpec, index: Option<i32>) -> pods::NewPod {
    let mut pod = pods::from_template(&spec.template, &job.namespace().unwrap_or_default(), pods::owner(job));
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
    let name = job.name_any();
    let Some(index) = index else {
        pod.metadata.generate_name = Some(format!("{name}-"));
        return pod;
    };
    pod.metadata.generate_name = Some(format!("{name}-{index}-"));
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.into(), index.to_string());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(format!("{name}-{index}"));
    let variable = EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.annotations['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    };
    for container in pod_spec.containers.iter_mut().chain(pod_spec.init_containers.iter_mut().flatten()) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|e| e.name == variable.name) {
            env.push(variable.clone());
        }
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn spec(value: Value) -> JobSpec {
        let mut value = value;
        value["template"] = json!({"spec": {"containers": []}});
        serde_json::from_value(value).unwrap()
    }

    fn run(create: usize, delete: usize) -> Decision {
        Decision::Run { create, indexes: Vec::new(), delete }
    }

    #[test]
    fn pods_are_made_up_to_what_is_still_needed() {
        let job = spec(json!({"parallelism": 3, "completions": 5, "backoffLimit": 6}));
        let decide = |succeeded, active| decide(&job, &Tally { succeeded, active, ..Tally::default() }, None);
        assert_eq!(decide(0, 0), run(3, 0));
        assert_eq!(decide(3, 1), run(1, 0));
        assert_eq!(decide(4, 2), run(0, 1));
        assert_eq!(decide(5, 0), Decision::Complete);
    }

    #[test]
    fn a_work_queue_ends_when_all_have_ended_and_one_succeeded() {
        let job = spec(json!({"parallelism": 2}));
        let decide = |succeeded, active| decide(&job, &Tally { succeeded, active, ..Tally::default() }, None);
        assert_eq!(decide(0, 1), run(1, 0));
        assert_eq!(decide(1, 1), run(0, 0));
        assert_eq!(decide(2, 0), Decision::Complete);
    }

    #[test]
    fn failures_and_deadlines_end_a_job() {
        let job = spec(json!({"parallelism": 1, "completions": 1, "backoffLimit": 1, "activeDeadlineSeconds": 10}));
        let failed = |failed| decide(&job, &Tally { failed, ..Tally::default() }, Some(SignedDuration::from_secs(1)));
        assert_eq!(failed(1), run(1, 0));
        assert!(matches!(failed(2), Decision::Fail("BackoffLimitExceeded", _)));
        let late = decide(&job, &Tally::default(), Some(SignedDuration::from_secs(11)));
        assert!(matches!(late, Decision::Fail("DeadlineExceeded", _)));
        let suspended = spec(json!({"parallelism": 2, "completions": 2, "suspend": true}));
        assert_eq!(decide(&suspended, &Tally { active: 1, ..Tally::default() }, None), run(0, 1));
    }

    #[test]
    fn each_index_is_done_once() {
        let job = spec(json!({"parallelism": 2, "completions": 4, "completionMode": "Indexed"}));
        let tally = Tally { completed: [0].into(), active_indexes: [1].into(), active: 1, ..Tally::default() };
        assert_eq!(decide(&job, &tally, None), Decision::Run { create: 1, indexes: vec![2], delete: 0 });
        let all = Tally { completed: [0, 1, 2, 3].into(), ..Tally::default() };
        assert_eq!(decide(&job, &all, None), Decision::Complete);
        let some = Tally { completed: [0, 1, 2].into(), given_up: [3].into(), ..Tally::default() };
        assert!(matches!(decide(&job, &some, None), Decision::Fail("FailedIndexes", _)));
    }

    #[test]
    fn a_success_policy_ends_a_job_early() {
        let rules = json!([{"succeededIndexes": "0,2"}, {"succeededCount": 3}, {"succeededIndexes": "1-3", "succeededCount": 1}]);
        let job = spec(json!({"parallelism": 5, "completions": 5, "completionMode": "Indexed",
            "successPolicy": {"rules": rules}}));
        let met = |done: &[i32]| met(&job, &done.iter().copied().collect());
        assert_eq!(met(&[0]), None);
        assert_eq!(met(&[0, 4]), None);
        assert_eq!(met(&[0, 2]), Some(0));
        assert_eq!(met(&[0, 1, 4]), Some(1));
        assert_eq!(met(&[3]), Some(2));
        let tally = Tally { completed: [0, 2].into(), active: 3, ..Tally::default() };
        assert_eq!(decide(&job, &tally, None), Decision::Enough("Matched rules at index 0".into()));
    }

    #[test]
    fn failures_of_an_index_outlive_its_pods() {
        let job =
            spec(json!({"parallelism": 1, "completions": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1}));
        let pod = |before: &str, phase: &str| -> Arc<Pod> {
            let annotations = json!({INDEX: "0", FAILURES: before});
            let pod = json!({"metadata": {"name": "p", "annotations": annotations}, "status": {"phase": phase}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let given_up = |pods: &[Arc<Pod>]| tally(&job, &JobStatus::default(), pods).given_up.contains(&0);
        assert!(!given_up(&[pod("0", "Failed")]));
        assert!(!given_up(&[pod("1", "Running")]));
        assert!(given_up(&[pod("1", "Failed")]));
    }

    #[test]
    fn failure_policy_takes_the_first_rule_that_fits() {
        let rules: Vec<PodFailurePolicyRule> = serde_json::from_value(json!([
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        ]))
        .unwrap();
        let pod = |code: i32, condition: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"phase": "Failed",
                "conditions": [{"type": condition, "status": "True"}],
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code}}}]}}))
            .unwrap()
        };
        assert_eq!(judge(&rules, &pod(42, "DisruptionTarget")), Verdict::Ignore);
        assert!(matches!(judge(&rules, &pod(42, "Other")), Verdict::FailJob(why) if why.contains("exit code 42")));
        assert_eq!(judge(&rules, &pod(1, "Other")), Verdict::Count);
    }
}
