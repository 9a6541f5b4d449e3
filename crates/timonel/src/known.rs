//! What an agent knew last of its cluster: enough to go on with its pods while no server answers.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

const FILE: &str = "last-known.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub node_name: String,
    pub authority_pem: String,
    /// The cluster's settings, as its ConfigMap has them.
    pub settings: BTreeMap<String, String>,
    /// Those of this node's pods.
    pub ranges: Vec<IpNet>,
}

impl Known {
    pub fn load(agent_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&bounded::bytes(agent_dir.join(FILE), bounded::MAX_OWN_FILE_BYTES).ok()?).ok()
    }

    /// # Errors
    /// Those of the file system.
    pub fn save(&self, agent_dir: &Path) -> anyhow::Result<()> {
        if Self::load(agent_dir).as_ref() == Some(self) {
            return Ok(());
        }
        let path = agent_dir.join(FILE);
        bounded::durable::replace(&path, &serde_json::to_vec(self)?)
            .with_context(|| format!("can't write {}", path.display()))
    }
}
