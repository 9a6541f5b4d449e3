//! Scheduling profiles, by `schedulerName`.
//!
//! They are read from a file in upstream's format (`KubeSchedulerConfiguration`, `kubescheduler.config.k8s.io/v1`). Supported are names, score
//! plugins with their weights (`plugins.score`, `plugins.multiPoint`), the scoring strategy of `NodeResourcesFit`, and the `addedAffinity` of
//! `NodeAffinity`. Any other field is an error.

mod error;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeAffinity;
use serde::Deserialize;

pub use error::{ArgsError, FieldError, ProfileError};

/// The default `schedulerName`.
pub const DEFAULT_SCHEDULER_NAME: &str = "default-scheduler";

/// Weights of score plugins; 0 disables one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// `NodeAffinity`
    pub node_affinity: i64,
    /// `TaintToleration`
    pub taint_toleration: i64,
    /// `InterPodAffinity`
    pub inter_pod_affinity: i64,
    /// `PodTopologySpread`
    pub pod_topology_spread: i64,
    /// `NodeResourcesFit`
    pub node_resources_fit: i64,
    /// `NodeResourcesBalancedAllocation`
    pub balanced_allocation: i64,
    /// `ImageLocality`
    pub image_locality: i64,
    /// `DynamicResources`
    pub dynamic_resources: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Weights {
            node_affinity: 2,
            taint_toleration: 3,
            inter_pod_affinity: 2,
            pod_topology_spread: 2,
            node_resources_fit: 1,
            balanced_allocation: 1,
            image_locality: 1,
            dynamic_resources: 2,
        }
    }
}

impl Weights {
    const NONE: Self = Weights {
        node_affinity: 0,
        taint_toleration: 0,
        inter_pod_affinity: 0,
        pod_topology_spread: 0,
        node_resources_fit: 0,
        balanced_allocation: 0,
        image_locality: 0,
        dynamic_resources: 0,
    };

    fn of(&mut self, plugin: &str) -> Option<&mut i64> {
        Some(match plugin {
            "NodeAffinity" => &mut self.node_affinity,
            "TaintToleration" => &mut self.taint_toleration,
            "InterPodAffinity" => &mut self.inter_pod_affinity,
            "PodTopologySpread" => &mut self.pod_topology_spread,
            "NodeResourcesFit" => &mut self.node_resources_fit,
            "NodeResourcesBalancedAllocation" => &mut self.balanced_allocation,
            "ImageLocality" => &mut self.image_locality,
            "DynamicResources" => &mut self.dynamic_resources,
            _ => return None,
        })
    }
}

/// The scoring strategy of NodeResourcesFit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// Prefers nodes with low usage: pods are spread.
    LeastAllocated,
    /// Prefers nodes with high usage: pods are packed.
    MostAllocated,
    /// The score (0 to 100) is interpolated between points of utilization (0 to 100).
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// A scheduling profile.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its `schedulerName`.
    pub name: String,
    /// Weights of its score plugins.
    pub weights: Weights,
    /// The scoring strategy of NodeResourcesFit.
    pub strategy: Strategy,
    /// The resources of the strategy, with their weights.
    pub resources: Vec<(String, i64)>,
    /// `addedAffinity`: node affinity of all pods of the profile.
    pub affinity: Option<NodeAffinity>,
}

impl Default for Profile {
    fn default() -> Self {
        Profile {
            name: DEFAULT_SCHEDULER_NAME.into(),
            weights: Weights::default(),
            strategy: Strategy::LeastAllocated,
            resources: vec![("cpu".into(), 1), ("memory".into(), 1)],
            affinity: None,
        }
    }
}

/// All profiles, by name.
#[derive(Debug, Clone)]
pub struct Profiles(BTreeMap<String, Profile>);

impl Default for Profiles {
    fn default() -> Self {
        Profiles(BTreeMap::from([(DEFAULT_SCHEDULER_NAME.to_string(), Profile::default())]))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    profiles: Vec<FileProfile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileProfile {
    scheduler_name: Option<String>,
    #[serde(default)]
    plugins: Plugins,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Plugins {
    #[serde(default)]
    score: PluginSet,
    #[serde(default)]
    multi_point: PluginSet,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct PluginSet {
    #[serde(default)]
    enabled: Vec<Plugin>,
    #[serde(default)]
    disabled: Vec<Plugin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Fit {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    scoring_strategy: Option<Scoring>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Scoring {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    resources: Vec<Plugin>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AffinityArgs {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    added_affinity: Option<NodeAffinity>,
}

impl Profiles {
    /// Reads the text of a file, in YAML.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn read(text: &str) -> Result<Self, ProfileError> {
        let file: File = apimachinery::yaml::from_str(text)?;
        if file.api_version != "kubescheduler.config.k8s.io/v1" || file.kind != "KubeSchedulerConfiguration" {
            return Err(ProfileError::OtherKind(format!("{}, {}", file.api_version, file.kind)));
        }
        let mut profiles = BTreeMap::new();
        for (i, profile) in file.profiles.into_iter().enumerate() {
            let profile = profile.read().map_err(|error| ProfileError::Profile(i, error))?;
            let name = profile.name.clone();
            if profiles.insert(name.clone(), profile).is_some() {
                return Err(ProfileError::Duplicate(i, name));
            }
        }
        Ok(if profiles.is_empty() { Profiles::default() } else { Profiles(profiles) })
    }

    /// The profile of a `schedulerName`.
    pub fn get(&self, name: &str) -> Option<&Profile> {
        self.0.get(name)
    }

    /// The names of all profiles.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }
}

impl FileProfile {
    fn read(self) -> Result<Profile, FieldError> {
        let mut profile = Profile {
            name: self.scheduler_name.unwrap_or_else(|| DEFAULT_SCHEDULER_NAME.into()),
            ..Profile::default()
        };
        for (point, set) in [("multiPoint", self.plugins.multi_point), ("score", self.plugins.score)] {
            let unknown = |name: &str| FieldError::UnknownPlugin(point, name.into());
            for plugin in set.disabled {
                if plugin.name == "*" {
                    profile.weights = Weights::NONE;
                    continue;
                }
                *profile.weights.of(&plugin.name).ok_or_else(|| unknown(&plugin.name))? = 0;
            }
            for plugin in set.enabled {
                let weight = plugin.weight.unwrap_or(1);
                if !(1..=100).contains(&weight) {
                    return Err(FieldError::Weight(point, plugin.name, weight));
                }
                *profile.weights.of(&plugin.name).ok_or_else(|| unknown(&plugin.name))? = weight;
            }
        }
        for (i, config) in self.plugin_config.into_iter().enumerate() {
            let at = |error: ArgsError| FieldError::Args(i, error);
            match config.name.as_str() {
                "NodeResourcesFit" => {
                    let args: Fit = serde_json::from_value(config.args).map_err(|e| at(e.into()))?;
                    if let Some(scoring) = args.scoring_strategy {
                        scoring.apply(&mut profile).map_err(at)?;
                    }
                }
                "NodeAffinity" => {
                    let args: AffinityArgs = serde_json::from_value(config.args).map_err(|e| at(e.into()))?;
                    profile.affinity = args.added_affinity;
                }
                other => return Err(FieldError::NotConfigurable(i, other.into())),
            }
        }
        Ok(profile)
    }
}

impl Scoring {
    fn apply(self, profile: &mut Profile) -> Result<(), ArgsError> {
        profile.strategy = match (self.kind.as_str(), self.requested_to_capacity_ratio) {
            ("LeastAllocated", None) => Strategy::LeastAllocated,
            ("MostAllocated", None) => Strategy::MostAllocated,
            ("RequestedToCapacityRatio", Some(ratio)) => {
                let points: Vec<(i64, i64)> = ratio.shape.iter().map(|p| (p.utilization, p.score)).collect();
                let rising = points.windows(2).all(|w| w[0].0 < w[1].0);
                let bound = points.iter().all(|(u, s)| (0..=100).contains(u) && (0..=10).contains(s));
                if points.is_empty() || !rising || !bound {
                    return Err(ArgsError::Shape);
                }
                Strategy::RequestedToCapacityRatio(points.into_iter().map(|(u, s)| (u, s * 10)).collect())
            }
            (kind, _) => return Err(ArgsError::Strategy(kind.into())),
        };
        if !self.resources.is_empty() {
            profile.resources = self.resources.into_iter().map(|r| (r.name, r.weight.unwrap_or(1))).collect();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

    #[test]
    fn profiles_are_read() {
        let text = format!(
            "{HEAD}profiles:
- schedulerName: packing
  pluginConfig:
  - name: NodeResourcesFit
    args: {{scoringStrategy: {{type: MostAllocated, resources: [{{name: cpu, weight: 3}}]}}}}
  plugins:
    score:
      disabled: [{{name: ImageLocality}}]
      enabled: [{{name: NodeResourcesFit, weight: 9}}]
- {{}}
"
        );
        let profiles = Profiles::read(&text).unwrap();
        assert_eq!(profiles.names().collect::<Vec<_>>(), ["default-scheduler", "packing"]);
        let packing = profiles.get("packing").unwrap();
        assert_eq!((&packing.strategy, &packing.resources), (&Strategy::MostAllocated, &vec![("cpu".to_string(), 3)]));
        assert_eq!(packing.weights, Weights { image_locality: 0, node_resources_fit: 9, ..Weights::default() });
        assert_eq!(profiles.get(DEFAULT_SCHEDULER_NAME).unwrap().weights, Weights::default());
    }

    #[test]
    fn what_cant_be_done_is_refused_with_its_place() {
        let check = |rest: &str, want: &str| {
            let error = Profiles::read(&format!("{HEAD}{rest}")).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        };
        check("extenders: []", "unknown field `extenders`");
        check("profiles: [{plugins: {filter: {}}}]", "unknown field `filter`");
        check(
            "profiles: [{plugins: {score: {disabled: [{name: X}]}}}]",
            "profiles[0].plugins.score: there is no plugin \"X\"",
        );
        check("profiles: [{}, {}]", "profiles[1].schedulerName: there are two profiles");
        check(
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]}]",
            "profiles[0].pluginConfig[0].args: scoringStrategy.type: \"Best\"",
        );
        assert!(
            Profiles::read("apiVersion: v1\nkind: List\n").unwrap_err().to_string().contains("not of kubescheduler")
        );
    }
}
