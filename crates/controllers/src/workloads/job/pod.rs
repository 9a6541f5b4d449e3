//! The pods that a Job creates.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector};
use kube::ResourceExt as _;

use super::{FINALIZER, INDEX};
use crate::toolkit::pods;

pub(super) fn new_pod(job: &Job, spec: &JobSpec, index: Option<i32>) -> pods::NewPod {
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

/// What the names of an index's pods begin with: the index stays whole where the Job's name is too long for both.
pub(super) fn generate_name(job: &str, index: i32) -> String {
    let end = format!("-{index}-");
    let room = apimachinery::names::GENERATED_PREFIX.saturating_sub(end.len());
    let start: String = job.chars().take(room).collect();
    format!("{start}{end}")
}
