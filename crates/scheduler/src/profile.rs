//! Profiles: what counts in the choice of a node, by the name that pods ask for in `schedulerName`.
//!
//! They come from a file in upstream's format (`KubeSchedulerConfiguration`, `kubescheduler.config.k8s.io/v1`). What it may
//! say here: names, which aspects count and how much (`plugins.score`, `plugins.multiPoint`), the strategy of
//! `NodeResourcesFit`, and the `addedAffinity` of `NodeAffinity`. All else is refused rather than left aside.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeAffinity;
use serde::Deserialize;

/// The name that pods have who ask for none.
pub const DEFAULT: &str = "default-scheduler";

/// How much each aspect counts; zero for not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    pub node_affinity: i64,
    pub taints: i64,
    pub neighbours: i64,
    pub spread: i64,
    pub room: i64,
    pub balance: i64,
    pub images: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Weights { node_affinity: 2, taints: 3, neighbours: 2, spread: 2, room: 1, balance: 1, images: 1 }
    }
}

impl Weights {
    const NONE: Self =
        Weights { node_affinity: 0, taints: 0, neighbours: 0, spread: 0, room: 0, balance: 0, images: 0 };

    fn of(&mut self, plugin: &str) -> Option<&mut i64> {
        Some(match plugin {
            "NodeAffinity" => &mut self.node_affinity,
            "TaintToleration" => &mut self.taints,
            "InterPodAffinity" => &mut self.neighbours,
            "PodTopologySpread" => &mut self.spread,
            "NodeResourcesFit" => &mut self.room,
            "NodeResourcesBalancedAllocation" => &mut self.balance,
            "ImageLocality" => &mut self.images,
            _ => return None,
        })
    }
}

/// What a well-chosen node has, as to its resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// Much that is free: pods are spread.
    Least,
    /// Little that is free: pods are packed.
    Most,
    /// A score (0 to 100) for each share in use (0 to 100), with straight lines between these points.
    Shape(Vec<(i64, i64)>),
}

#[derive(Debug, Clone)]
pub struct Profile {
    pub name: String,
    pub weights: Weights,
    pub strategy: Strategy,
    /// The resources that the strategy is about, with their weights.
    pub resources: Vec<(String, i64)>,
    /// What every pod of the profile wants of its node beside its own wishes.
    pub affinity: Option<NodeAffinity>,
}

impl Default for Profile {
    fn default() -> Self {
        Profile {
            name: DEFAULT.into(),
            weights: Weights::default(),
            strategy: Strategy::Least,
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
        Profiles(BTreeMap::from([(DEFAULT.to_string(), Profile::default())]))
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
    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn read(text: &str) -> Result<Self, String> {
        let file: File = apimachinery::yaml::from_str(text).map_err(|e| e.to_string())?;
        if file.api_version != "kubescheduler.config.k8s.io/v1" || file.kind != "KubeSchedulerConfiguration" {
            let is = format!("{}, {}", file.api_version, file.kind);
            return Err(format!("it is of {is}, not of kubescheduler.config.k8s.io/v1, KubeSchedulerConfiguration"));
        }
        let mut profiles = BTreeMap::new();
        for (i, profile) in file.profiles.into_iter().enumerate() {
            let profile = profile.read().map_err(|why| format!("profiles[{i}].{why}"))?;
            let name = profile.name.clone();
            if profiles.insert(name.clone(), profile).is_some() {
                return Err(format!("profiles[{i}].schedulerName: there are two profiles {name:?}"));
            }
        }
        Ok(if profiles.is_empty() { Profiles::default() } else { Profiles(profiles) })
    }

    pub fn get(&self, name: &str) -> Option<&Profile> {
        self.0.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }
}

impl FileProfile {
    fn read(self) -> Result<Profile, String> {
        let mut profile = Profile { name: self.scheduler_name.unwrap_or_else(|| DEFAULT.into()), ..Profile::default() };
        for (point, set) in [("multiPoint", self.plugins.multi_point), ("score", self.plugins.score)] {
            let known = |name: &str| format!("plugins.{point}: there is no plugin {name:?} that scores");
            for plugin in set.disabled {
                if plugin.name == "*" {
                    profile.weights = Weights::NONE;
                    continue;
                }
                *profile.weights.of(&plugin.name).ok_or_else(|| known(&plugin.name))? = 0;
            }
            for plugin in set.enabled {
                let weight = plugin.weight.unwrap_or(1);
                if !(1..=100).contains(&weight) {
                    return Err(format!(
                        "plugins.{point}: the weight of {} is {weight}; it goes from 1 to 100",
                        plugin.name
                    ));
                }
                *profile.weights.of(&plugin.name).ok_or_else(|| known(&plugin.name))? = weight;
            }
        }
        for (i, config) in self.plugin_config.into_iter().enumerate() {
            let at = |why: String| format!("pluginConfig[{i}].args: {why}");
            match config.name.as_str() {
                "NodeResourcesFit" => {
                    let args: Fit = serde_json::from_value(config.args).map_err(|e| at(e.to_string()))?;
                    if let Some(scoring) = args.scoring_strategy {
                        scoring.apply(&mut profile).map_err(at)?;
                    }
                }
                "NodeAffinity" => {
                    let args: AffinityArgs = serde_json::from_value(config.args).map_err(|e| at(e.to_string()))?;
                    profile.affinity = args.added_affinity;
                }
                other => return Err(format!("pluginConfig[{i}].name: {other:?} can't be configured here")),
            }
        }
        Ok(profile)
    }
}

impl Scoring {
    fn apply(self, profile: &mut Profile) -> Result<(), String> {
        profile.strategy = match (self.kind.as_str(), self.requested_to_capacity_ratio) {
            ("LeastAllocated", None) => Strategy::Least,
            ("MostAllocated", None) => Strategy::Most,
            ("RequestedToCapacityRatio", Some(ratio)) => {
                let points: Vec<(i64, i64)> = ratio.shape.iter().map(|p| (p.utilization, p.score)).collect();
                let rising = points.windows(2).all(|w| w[0].0 < w[1].0);
                let bound = points.iter().all(|(u, s)| (0..=100).contains(u) && (0..=10).contains(s));
                if points.is_empty() || !rising || !bound {
                    return Err(
                        "scoringStrategy.requestedToCapacityRatio.shape: it wants rising utilizations from 0 to 100 \
                                with scores from 0 to 10"
                            .into(),
                    );
                }
                Strategy::Shape(points.into_iter().map(|(u, s)| (u, s * 10)).collect())
            }
            (kind, _) => {
                let known = "LeastAllocated, MostAllocated, and RequestedToCapacityRatio with its shape";
                return Err(format!("scoringStrategy.type: {kind:?} isn't one of {known}"));
            }
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
        assert_eq!((&packing.strategy, &packing.resources), (&Strategy::Most, &vec![("cpu".to_string(), 3)]));
        assert_eq!(packing.weights, Weights { images: 0, room: 9, ..Weights::default() });
        assert_eq!(profiles.get(DEFAULT).unwrap().weights, Weights::default());
    }

    #[test]
    fn what_cant_be_done_is_refused_with_its_place() {
        let check = |rest: &str, want: &str| {
            let error = Profiles::read(&format!("{HEAD}{rest}")).unwrap_err();
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
        assert!(Profiles::read("apiVersion: v1\nkind: List\n").unwrap_err().contains("not of kubescheduler"));
    }
}
