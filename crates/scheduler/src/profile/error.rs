//! What can be wrong with a file of profiles.

/// Why a file of profiles is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is no YAML, or has fields that aren't known.
    #[error(transparent)]
    Malformed(#[from] apimachinery::yaml::YamlError),
    /// It is of another version or kind.
    #[error("it is of {0}, not of kubescheduler.config.k8s.io/v1, KubeSchedulerConfiguration")]
    OtherKind(String),
    /// A second profile, by its index, has this name.
    #[error("profiles[{0}].schedulerName: there are two profiles {1:?}")]
    Duplicate(usize, String),
    /// A profile, by its index, asks for what isn't there.
    #[error("profiles[{0}].{1}")]
    Profile(usize, FieldError),
}

/// What is wrong in a profile, and where.
#[derive(Debug, thiserror::Error)]
pub enum FieldError {
    /// At this extension point no plugin has that name.
    #[error("plugins.{0}: there is no plugin {1:?} that scores")]
    UnknownPlugin(&'static str, String),
    /// At this extension point that plugin has a weight outside its range.
    #[error("plugins.{0}: the weight of {1} is {2}; it goes from 1 to 100")]
    Weight(&'static str, String, i64),
    /// The arguments of a plugin, by the index of its configuration.
    #[error("pluginConfig[{0}].args: {1}")]
    Args(usize, ArgsError),
    /// A plugin, by the index of its configuration, has no arguments here.
    #[error("pluginConfig[{0}].name: {1:?} can't be configured here")]
    NotConfigurable(usize, String),
}

/// What is wrong in the arguments of a plugin.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// They have another shape, or fields that aren't known.
    #[error(transparent)]
    Malformed(#[from] serde_json::Error),
    /// The points of the shape are out of order or range.
    #[error(
        "scoringStrategy.requestedToCapacityRatio.shape: it wants rising utilizations from 0 to 100 with scores from 0 to 10"
    )]
    Shape,
    /// There is no such strategy.
    #[error(
        "scoringStrategy.type: {0:?} isn't one of LeastAllocated, MostAllocated, and RequestedToCapacityRatio with its shape"
    )]
    Strategy(String),
}
