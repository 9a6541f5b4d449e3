//! Jobs: pods that run to their end, counted once each.
//!
//! A pod of a Job carries a finalizer until it is counted, so that no end is missed whoever deletes the pod and whenever
//! this process dies. Counting goes in steps, each of which may be the last before a crash: the uid is written to
//! `uncountedTerminatedPods`; the finalizer is removed; the uid is taken out and the counter raised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{LabelSelector, clock, ranges};
use informer::{Informer, Key, Keyed as _, Pod, Queue};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, PodFailurePolicyRule, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::toolkit::adoption::Selecting;
use crate::toolkit::{Context, Result, adoption, ignore, pods};

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// On a pod of an index: how many before it failed.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// First and longest wait before pods that failed are replaced.
const BACKOFF: (i64, i64) = (10, 600);
/// Pods that one round creates at the most.
const BURST: usize = 500;

impl Selecting for Job {
    fn selector(&self) -> Option<LabelSelector> {
        pods::selector(self.spec.as_ref()?.selector.as_ref()?)
    }

    const FINALIZER: Option<&str> = Some(FINALIZER);
}

pub fn start(context: Context) {
    let (jobs, all_pods, queue) = pods::follow::<Job>(&context);
    follow_orphans(&context, jobs.clone(), all_pods.clone());
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

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn is_held(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|f| f == FINALIZER)
}

/// Whether pods are replaced once they have ended, and not when they begin to (`podReplacementPolicy: Failed`; a failure policy has to
/// see how they ended, too).
fn replaces_ended(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// How a pod has ended, for the counters. One that somebody deletes has failed at once, unless its end is waited for: it may never have
/// run and so never come to an end. (One that the Job itself gave up has lost its finalizer before.)
fn outcome(spec: &JobSpec, pod: &Pod) -> Option<bool> {
    match pods::phase(pod) {
        "Succeeded" => Some(true),
        "Failed" => Some(false),
        _ if pods::is_deleting(pod) && is_held(pod) && !replaces_ended(spec) => Some(false),
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
        let by_condition = rule.on_pod_conditions.iter().flatten().find(|wanted| {
            let fits = |c: &informer::pod::PodCondition| {
                c.type_ == wanted.type_ && Some(c.status.as_str()) == wanted.status.as_deref().or(Some("True"))
            };
            status.conditions.iter().flatten().any(fits)
        });
        let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
        let why = match (by_code, by_condition) {
            (Some((container, code)), _) => {
                format!("Container {container} for pod {name} failed with exit code {code}")
            }
            (None, Some(condition)) => format!("Pod {name} has condition {}", condition.type_),
            (None, None) => continue,
        };
        let why = format!("{why} matching {} rule at index {number}", rule.action);
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
    /// Pods at work that no index wants: a second one of its index, or one of an index that the Job hasn't got (any more).
    surplus: BTreeSet<String>,
    /// How often each index failed. Its pods carry the count, so it outlives those that are deleted.
    failures: BTreeMap<i32, i32>,
    active: i32,
    ready: i32,
    terminating: i32,
    /// Indexes of pods that are on their way out.
    terminating_indexes: BTreeSet<i32>,
    /// Restarts of containers, init containers and sidecars, which count against the limit when pods restart in place.
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
    let indexed = is_indexed(spec);
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
        let wait_for_end = replaces_ended(spec);
        let free = (0..total).filter(|i| {
            let taken = wait_for_end && tally.terminating_indexes.contains(i);
            !taken && !tally.completed.contains(i) && !tally.given_up.contains(i) && !tally.active_indexes.contains(i)
        });
        let surplus = i32::try_from(tally.surplus.len()).unwrap_or(i32::MAX);
        let active = tally.active - surplus;
        let counted = active + if wait_for_end { tally.terminating } else { 0 };
        let room = usize::try_from(wanted - counted).unwrap_or(0);
        let indexes: Vec<i32> = free.take(room.min(BURST)).collect();
        let delete = tally.surplus.len() + usize::try_from(active - wanted).unwrap_or(0);
        return Decision::Run { create: indexes.len(), indexes, delete };
    }
    match spec.completions {
        Some(completions) => wanted = wanted.min(completions - tally.succeeded),
        // A work queue: once one has succeeded, no new ones are started.
        None if tally.succeeded > 0 => wanted = wanted.min(tally.active),
        None => {}
    }
    // Unless told otherwise, what is on its way out is replaced at once.
    let counted = tally.active + if replaces_ended(spec) { tally.terminating } else { 0 };
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
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(0).min(10);
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
        let Some(job) = self.jobs.get(key) else { return Ok(None) };
        let (Some(spec), Some(uid)) = (&job.spec, job.uid()) else { return Ok(None) };
        if spec.managed_by.as_ref().is_some_and(|m| m != "kubernetes.io/job-controller") {
            return Ok(None);
        }
        if job.metadata.deletion_timestamp.is_none() && ending(&job).is_none() {
            adoption::adopt_and_release(self.context, self.pods, job.as_ref(), |_| true).await?;
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
        let now = clock::now();
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
        let ends = !matches!(decision, Decision::Run { .. });
        match decision {
            Decision::Run { create, indexes, delete } => {
                let turned = set_suspended(&mut status, spec.suspend == Some(true), now);
                self.write_status(&job, &status).await?;
                if let Some((reason, message)) = turned {
                    self.context.events.normal(job.as_ref(), reason, message);
                }
                again = self.run(&job, spec, &mine, create, &indexes, delete, &tally).await?;
                if let (Some(deadline), Some(age)) = (spec.active_deadline_seconds, age) {
                    let left = clock::seconds(deadline.saturating_sub(age.as_secs()).saturating_add(1));
                    again = Some(again.map_or(left, |a: Duration| a.min(left)));
                }
            }
            ended => self.end(&job, spec, &mut status, &mine, ended, now).await?,
        }
        // Only now that they stand in the status may they go.
        for pod in mine.iter().filter(|p| outcome(spec, p).is_some() && (ends || !is_needed(spec, &tally, &mine, p))) {
            self.free(pod).await?;
        }
        Ok(again)
    }

    /// Lets a pod go that is counted.
    async fn free(&self, pod: &Pod) -> Result {
        free(self.context, pod).await
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
            let is_wanted = |p: &Pod| !p.metadata.uid.as_ref().is_some_and(|uid| tally.surplus.contains(uid));
            active.sort_by_key(|p| (is_wanted(p), usefulness(p)));
            for pod in active.into_iter().take(delete) {
                // It hasn't failed, so it isn't counted.
                self.free(pod).await?;
                pods::delete_told(self.context, self.pods, job, pod).await?;
            }
        }
        if create == 0 {
            return Ok(None);
        }
        let (create, indexes) = match ready(spec, mine, create, indexes, clock::now()) {
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
        pods::create_all(self.context, self.pods, job, new).await.map_or(Ok(None), Err)
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
            // What a Job that fails sends away has failed.
            let failed = status.uncounted_terminated_pods.get_or_insert_default().failed.get_or_insert_default();
            let counts = |p: &&&Arc<Pod>| is_held(p) && judge(rules(spec), p) != Verdict::Ignore;
            for uid in at_work.iter().filter(counts).filter_map(|p| p.uid()) {
                if !failed.contains(&uid) {
                    failed.push(uid);
                }
            }
            if failed.is_empty() {
                status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
                    failed: None,
                    ..status.uncounted_terminated_pods.take().unwrap_or_default()
                });
            }
        }
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
            // It stands in the status, or its end no longer counts.
            self.free(pod).await?;
            if !pods::is_deleting(pod) {
                pods::delete(&self.context.client, self.pods, pod).await?;
            }
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
        let left = i64::from(ttl).saturating_sub(clock::now().duration_since(ended.0).as_secs());
        if left > 0 {
            return Ok(Some(clock::seconds(left)));
        }
        ignore(self.api(job).delete(&job.name_any(), &DeleteParams::foreground()).await, &[404])?;
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

/// Lets a pod go that is counted, or that is nobody's.
async fn free(context: &Context, pod: &Pod) -> Result {
    if !is_held(pod) {
        return Ok(());
    }
    let change = json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    ignore(api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(change)).await, &[404, 409, 422])
}

/// Pods that carry the finalizer although no Job counts them any more: theirs is gone, or has let them go.
fn follow_orphans(context: &Context, jobs: Informer<Job>, all: Informer<Pod>) {
    let queue = Queue::of(&all, context.events.clone());
    let add = queue.clone();
    let is_orphan = |pod: &Pod, jobs: &Informer<Job>| {
        let owner = pods::controller_of(&pod.metadata);
        // What controls it isn't a Job: then it isn't ours to judge.
        let foreign = owner.is_some_and(|o| o.kind != "Job" || o.api_version != "batch/v1");
        let job = owner.and_then(|o| jobs.get(&Key::new(&pod.namespace().unwrap_or_default(), &o.name)));
        is_held(pod) && !foreign && job.is_none_or(|job| job.uid().as_ref() != owner.map(|o| &o.uid))
    };
    let known = jobs.clone();
    all.on_change(move |change| {
        if let informer::Change::Applied { new, .. } = change
            && is_orphan(new, &known)
        {
            add.add(new.key());
        }
    });
    let (add, pods) = (queue.clone(), all.clone());
    jobs.on_change(move |change| {
        if let informer::Change::Deleted(job) = change {
            let uid = job.uid().unwrap_or_default();
            pods::owned(&pods, &job.namespace().unwrap_or_default(), &uid).iter().for_each(|pod| add.add(pod.key()));
        }
    });
    let context = context.clone();
    queue.work("job-orphans", 2, move |key| {
        let (context, jobs, all) = (context.clone(), jobs.clone(), all.clone());
        async move {
            informer::synced!(jobs, all);
            let Some(pod) = all.get(&key).filter(|pod| is_orphan(pod, &jobs)) else { return Ok(None) };
            if let Some(owner) = pods::controller_of(&pod.metadata) {
                // The pod may have come before its Job.
                let api: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
                if api.get_metadata_opt(&owner.name).await?.is_some_and(|job| job.uid().as_ref() == Some(&owner.uid)) {
                    return Ok(None);
                }
            }
            free(&context, &pod).await.map(|()| None)
        }
    });
}

/// Whether a failed pod must stay until the one that replaces it carries on its count: the last of its index.
fn is_needed(spec: &JobSpec, tally: &Tally, mine: &[Arc<Pod>], pod: &Pod) -> bool {
    let (Some(_), Some(index)) = (spec.backoff_limit_per_index, index_of(pod)) else { return false };
    if outcome(spec, pod) != Some(false) || tally.completed.contains(&index) || tally.given_up.contains(&index) {
        return false;
    }
    let is_newer = |other: &Pod| index_of(other) == Some(index) && failures_before(other) > failures_before(pod);
    index < spec.completions.unwrap_or(0) && !mine.iter().any(|other| is_newer(other))
}

fn failures_before(pod: &Pod) -> i32 {
    pod.annotations().get(FAILURES).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Which of the pods that are wanted may be made now, or how long it takes until one may. Failures hold up what follows them: all pods
/// of the Job, or, where each index has a limit of its own, those of its index alone.
fn ready(
    spec: &JobSpec,
    mine: &[Arc<Pod>],
    create: usize,
    indexes: &[i32],
    now: Timestamp,
) -> std::result::Result<(usize, Vec<i32>), SignedDuration> {
    let failed: Vec<(Timestamp, &Arc<Pod>)> =
        mine.iter().filter(|p| outcome(spec, p) == Some(false)).filter_map(|p| Some((ended_at(p)?, p))).collect();
    let left = |failures: i32, last: Timestamp| backoff(failures).saturating_sub(now.duration_since(last));
    if spec.backoff_limit_per_index.is_none() {
        let succeeded = mine.iter().filter(|p| outcome(spec, p) == Some(true)).filter_map(|p| ended_at(p)).max();
        let since: Vec<Timestamp> =
            failed.iter().map(|(at, _)| *at).filter(|at| succeeded.is_none_or(|s| *at > s)).collect();
        let count = i32::try_from(since.len()).unwrap_or(i32::MAX);
        return match since.into_iter().max().map(|last| left(count, last)) {
            Some(left) if left > SignedDuration::ZERO => Err(left),
            _ => Ok((create, indexes.to_vec())),
        };
    }
    let wait = |index: i32| {
        let of_index = failed.iter().filter(|(_, p)| index_of(p) == Some(index));
        let last = of_index.max_by_key(|(at, p)| (failures_before(p), *at));
        last.map_or(SignedDuration::ZERO, |(at, p)| left(failures_before(p).saturating_add(1), *at))
    };
    let free: Vec<i32> = indexes.iter().copied().filter(|i| wait(*i) <= SignedDuration::ZERO).collect();
    match indexes.iter().map(|i| wait(*i)).min() {
        Some(least) if free.is_empty() => Err(least),
        _ => Ok((free.len(), free)),
    }
}

/// The least useful of a Job's pods come first: those without a node, those that don't run, those that aren't ready, the newest.
fn usefulness(pod: &Pod) -> (bool, bool, bool, std::cmp::Reverse<Option<Timestamp>>) {
    let has_node = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (has_node, pods::phase(pod) == "Running", pods::is_ready(pod), std::cmp::Reverse(created))
}

/// The pods at work that no index wants, but the most useful one of each index that the Job has.
fn surplus(total: i32, mine: &[Arc<Pod>]) -> BTreeSet<String> {
    let mut of: BTreeMap<i32, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in mine.iter().filter(|p| pods::is_active(p)) {
        of.entry(index_of(pod).unwrap_or(-1)).or_default().push(pod);
    }
    let mut surplus = BTreeSet::new();
    for (index, mut pods) in of {
        pods.sort_by_key(|p| usefulness(p));
        if (0..total).contains(&index) {
            pods.pop();
        }
        surplus.extend(pods.iter().filter_map(|p| p.uid()));
    }
    surplus
}

/// When a pod ended, as well as that is known.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref();
    let statuses = status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|t| t.0));
    let unready = || {
        let ready = status?.conditions.iter().flatten().find(|c| c.type_ == "Ready" && c.status == "False")?;
        ready.last_transition_time.as_ref().map(|t| t.0)
    };
    let deleted = || {
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0).saturating_neg());
        Some(clock::moved(pod.metadata.deletion_timestamp.as_ref()?.0, grace))
    };
    ends.max().or_else(unready).or_else(deleted).or(pod.metadata.creation_timestamp.as_ref().map(|t| t.0))
}

/// Steps one and three of the count, on the status that is about to be written.
fn count(spec: &JobSpec, status: &mut JobStatus, mine: &[Arc<Pod>]) {
    let by_uid: BTreeMap<String, &Arc<Pod>> = mine.iter().filter_map(|p| Some((p.uid()?, p))).collect();
    let held = |uid: &String| by_uid.get(uid).is_some_and(|p| is_held(p));
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
    // A pod of an index that the Job hasn't got (any more) has neither failed nor succeeded for it.
    let is_its =
        |pod: &Pod| !is_indexed(spec) || index_of(pod).is_some_and(|i| (0..spec.completions.unwrap_or(0)).contains(&i));
    for pod in mine.iter().filter(|pod| is_its(pod)) {
        let (Some(uid), Some(succeeded)) = (pod.uid(), outcome(spec, pod)) else { continue };
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
            let counts = outcome(spec, pod) == Some(false) && judge(rules(spec), pod) != Verdict::Ignore;
            let failures = tally.failures.entry(index).or_default();
            *failures = (*failures).max(failures_before(pod).saturating_add(i32::from(counts)));
        }
        if pods::is_deleting(pod) && !pod.is_over() {
            tally.terminating += 1;
            tally.terminating_indexes.extend(index);
        }
        match outcome(spec, pod) {
            Some(true) => tally.completed.extend(index),
            Some(false) => match judge(rules(spec), pod) {
                Verdict::Ignore => {}
                Verdict::FailJob(why) => tally.fails_job = Some(why),
                Verdict::FailIndex => tally.given_up.extend(index),
                Verdict::Count => {}
            },
            None if pods::is_deleting(pod) => {}
            None => {
                tally.active += 1;
                tally.ready += i32::from(pods::is_ready(pod));
                tally.active_indexes.extend(index);
                if spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure") {
                    let statuses = pod
                        .status
                        .iter()
                        .flat_map(|s| [&s.init_container_statuses, &s.container_statuses])
                        .flatten()
                        .flatten();
                    tally.restarts = statuses.fold(tally.restarts, |sum, c| sum.saturating_add(c.restart_count));
                }
            }
        }
    }
    if is_indexed(spec) {
        // A Job that was made smaller hasn't got the indexes beyond its number any more, whatever became of them.
        let total = spec.completions.unwrap_or(0);
        tally.completed.retain(|i| (0..total).contains(i));
        tally.given_up.retain(|i| (0..total).contains(i));
        tally.failures.retain(|i, _| (0..total).contains(i));
        tally.surplus = surplus(total, mine);
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
    if is_indexed(spec) {
        // What counts is indexes, not pods: two of one index have done one thing.
        status.succeeded = i32::try_from(tally.completed.len()).ok().filter(|n| *n > 0);
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

/// What the names of an index's pods begin with: the index stays whole where the Job's name is too long for both.
fn generate_name(job: &str, index: i32) -> String {
    let end = format!("-{index}-");
    let room = apimachinery::names::GENERATED_PREFIX.saturating_sub(end.len());
    let start: String = job.chars().take(room).collect();
    format!("{start}{end}")
}

fn new_pod(job: &Job, spec: &JobSpec, index: Option<i32>) -> pods::NewPod {
    let mut pod = pods::from_template(&spec.template, &job.namespace().unwrap_or_default(), pods::owner(job));
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
    let name = job.name_any();
    let Some(index) = index else {
        pod.metadata.generate_name = Some(format!("{name}-"));
        return pod;
    };
    pod.metadata.generate_name = Some(generate_name(&name, index));
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
        value["template"] = json!({"spec": {"containers": [], "restartPolicy": "OnFailure"}});
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
    fn a_job_that_was_made_smaller_or_has_two_pods_of_an_index_keeps_to_its_indexes() {
        let job = spec(json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed"}));
        let pod = |name: &str, index: i32, phase: &str, ready: &str| {
            let conditions = json!([{"type": "Ready", "status": ready}]);
            pod(json!({"metadata": {"name": name, "uid": name, "annotations": {INDEX: index.to_string()}},
                "spec": {"nodeName": "n"}, "status": {"phase": phase, "conditions": conditions}}))
        };
        let status = JobStatus { completed_indexes: Some("0,4-6".into()), ..JobStatus::default() };
        let mine = [
            pod("twin", 1, "Running", "False"),
            pod("works", 1, "Running", "True"),
            pod("beyond", 5, "Running", "True"),
        ];
        let found = tally(&job, &status, &mine);
        assert_eq!(found.surplus, ["beyond".to_string(), "twin".to_string()].into());
        // Index 2 alone is missing: what was done beyond the third counts for nothing.
        assert_eq!(decide(&job, &found, None), Decision::Run { create: 1, indexes: vec![2], delete: 2 });
        let mut status = status;
        set_counts(&job, &mut status, &found);
        assert_eq!((status.succeeded, status.completed_indexes.as_deref()), (Some(1), Some("0")));
        // Two that succeeded for one index.
        let twice = [pod("a", 0, "Succeeded", "False"), pod("b", 0, "Succeeded", "False")];
        let mut status = JobStatus::default();
        count(&job, &mut status, &twice);
        let found = tally(&job, &status, &twice);
        set_counts(&job, &mut status, &found);
        assert_eq!(status.succeeded, Some(1));
        // What failed beyond the number isn't the Job's failure.
        let failed = [pod("a", 0, "Failed", "False"), pod("beyond", 7, "Failed", "False")];
        let mut status = JobStatus::default();
        count(&job, &mut status, &failed);
        assert_eq!(tally(&job, &status, &failed).failed, 1);
    }

    #[test]
    fn names_of_an_indexs_pods_keep_the_index() {
        assert_eq!(generate_name("count", 7), "count-7-");
        let long = generate_name(&"x".repeat(63), 123);
        assert!(long.len() == 58 && long.ends_with("x-123-"), "{long}");
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

    fn pod(value: Value) -> Arc<Pod> {
        let mut value = value;
        for (key, given) in [("name", json!("p")), ("uid", json!("p")), ("finalizers", json!([FINALIZER]))] {
            if value["metadata"].get(key).is_none() {
                value["metadata"][key] = given;
            }
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn restarts_of_init_containers_and_sidecars_count_against_the_limit() {
        let statuses = json!({"phase": "Pending", "initContainerStatuses": [{"name": "a", "restartCount": 1}, {"name": "b", "restartCount": 1}],
            "containerStatuses": [{"name": "c", "restartCount": 1}]});
        let mine = [pod(json!({"metadata": {}, "status": statuses}))];
        let decided = |limit: i32, restart: &str| {
            let mut job = spec(json!({"backoffLimit": limit}));
            job.template.spec.as_mut().unwrap().restart_policy = Some(restart.into());
            decide(&job, &tally(&job, &JobStatus::default(), &mine), None)
        };
        assert!(matches!(decided(3, "OnFailure"), Decision::Fail("BackoffLimitExceeded", _)));
        assert!(matches!(decided(4, "OnFailure"), Decision::Run { .. }));
        // Where pods don't restart in place, a sidecar that does isn't the Job's matter.
        assert!(matches!(decided(3, "Never"), Decision::Run { .. }));
    }

    #[test]
    fn a_pod_that_somebody_deletes_has_failed_unless_its_end_is_waited_for() {
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let mine = [pod(json!({"metadata": deleted, "status": {"phase": "Pending"}}))];
        for (more, failed) in [
            (json!({}), 1),
            (json!({"podReplacementPolicy": "TerminatingOrFailed"}), 1),
            (json!({"podReplacementPolicy": "Failed"}), 0),
            (json!({"podFailurePolicy": {"rules": []}}), 0),
        ] {
            let (job, mut status) = (spec(more.clone()), JobStatus::default());
            count(&job, &mut status, &mine);
            let found = tally(&job, &status, &mine);
            assert_eq!((found.failed, found.terminating, found.active), (failed, 1, 0), "{more}");
            // Its place is free only where its end isn't waited for.
            assert_eq!(decide(&job, &found, None), run(usize::try_from(failed).unwrap(), 0), "{more}");
        }
        // One that the Job itself gave up isn't counted.
        let free = [pod(json!({"metadata": {"finalizers": [], "deletionTimestamp": "2026-01-01T00:00:00Z"}}))];
        let (job, mut status) = (spec(json!({})), JobStatus::default());
        count(&job, &mut status, &free);
        assert_eq!(tally(&job, &status, &free).failed, 0);
    }

    #[test]
    fn a_terminating_index_is_taken_where_ends_are_waited_for() {
        let taken = Tally { terminating: 1, terminating_indexes: [0].into(), ..Tally::default() };
        for (policy, indexes) in [("Failed", vec![1]), ("TerminatingOrFailed", vec![0, 1])] {
            let job = spec(
                json!({"parallelism": 2, "completions": 3, "completionMode": "Indexed", "podReplacementPolicy": policy}),
            );
            let create = indexes.len();
            assert_eq!(decide(&job, &taken, None), Decision::Run { create, indexes, delete: 0 }, "{policy}");
        }
    }

    /// A pod that failed at a second.
    fn failed(name: &str, index: i32, before: i32, second: u32) -> Arc<Pod> {
        let annotations = json!({INDEX: index.to_string(), FAILURES: before.to_string()});
        let end = json!({"exitCode": 1, "finishedAt": format!("2026-01-01T00:00:{second:02}Z")});
        let statuses = json!([{"name": "c", "state": {"terminated": end}}]);
        pod(
            json!({"metadata": {"name": name, "uid": name, "annotations": annotations}, "status": {"phase": "Failed", "containerStatuses": statuses}}),
        )
    }

    #[test]
    fn failures_hold_up_their_own_index_or_the_whole_job() {
        let now: Timestamp = "2026-01-01T00:00:12Z".parse().unwrap();
        let mine = [failed("a", 0, 0, 1), failed("b", 1, 1, 5)];
        let left = SignedDuration::from_secs;
        let per_index = spec(json!({"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 3}));
        let ready = |spec: &JobSpec, mine: &[Arc<Pod>], indexes: &[i32]| ready(spec, mine, indexes.len(), indexes, now);
        // Index 0 failed once, 11 seconds ago; index 1 twice, 7 seconds ago; index 2 never.
        assert_eq!(ready(&per_index, &mine, &[0, 1, 2]), Ok((2, vec![0, 2])));
        assert_eq!(ready(&per_index, &mine, &[1]), Err(left(13)));
        let whole = spec(json!({"completionMode": "Indexed", "completions": 3}));
        assert_eq!(ready(&whole, &mine, &[2]), Err(left(13)));
        // A success begins the count anew.
        let mut success = (*failed("s", 2, 0, 4)).clone();
        success.status.as_mut().unwrap().phase = Some("Succeeded".into());
        let after = [mine[0].clone(), mine[1].clone(), Arc::new(success)];
        assert_eq!(ready(&whole, &after, &[0]), Err(left(3)));
        assert_eq!(ready(&whole, &[], &[0]), Ok((1, vec![0])));
    }

    #[test]
    fn the_last_failed_pod_of_an_index_stays_until_another_carries_on_its_count() {
        let job = spec(json!({"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 3}));
        let (first, second) = (failed("a", 0, 0, 1), failed("b", 0, 1, 2));
        let needed = |mine: &[Arc<Pod>], pod: &Pod, tally: &Tally| is_needed(&job, tally, mine, pod);
        assert!(needed(std::slice::from_ref(&first), &first, &Tally::default()));
        let both = [first.clone(), second.clone()];
        assert!(!needed(&both, &first, &Tally::default()));
        assert!(needed(&both, &second, &Tally::default()));
        assert!(!needed(&both, &second, &Tally { given_up: [0].into(), ..Tally::default() }));
        assert!(!needed(&both, &second, &Tally { completed: [0].into(), ..Tally::default() }));
    }

    #[test]
    fn a_failure_policy_says_which_rule_ends_a_job() {
        let rules: Vec<PodFailurePolicyRule> = serde_json::from_value(json!([
            {"action": "Count", "onPodConditions": [{"type": "Other", "status": "True"}]},
            {"action": "FailJob", "onPodConditions": [{"type": "ConfigIssue", "status": "True"}]},
        ]))
        .unwrap();
        let conditions = json!([{"type": "ConfigIssue", "status": "True"}]);
        let pod = pod(json!({"metadata": {"namespace": "n"}, "status": {"phase": "Failed", "conditions": conditions}}));
        let why = "Pod n/p has condition ConfigIssue matching FailJob rule at index 1";
        assert_eq!(judge(&rules, &pod), Verdict::FailJob(why.into()));
    }

    #[test]
    fn no_time_of_a_job_is_too_far() {
        for deadline in [i64::MAX, i64::MIN, 0] {
            let job = spec(json!({"activeDeadlineSeconds": deadline}));
            for age in [SignedDuration::MAX, SignedDuration::MIN] {
                let _ = decide(&job, &Tally::default(), Some(age));
            }
        }
        let grace = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": i64::MAX});
        assert_eq!(ended_at(&pod(json!({"metadata": grace}))), Some(Timestamp::MIN));
        assert!(backoff(i32::MAX) <= SignedDuration::from_secs(BACKOFF.1) && backoff(i32::MIN) > SignedDuration::ZERO);
    }
}
