//! What goes wrong: kills, full disks, a server that vanishes, clocks that jump.

use anyhow::Context as _;
use rand::RngExt as _;

use super::Chaos;
use super::faults::{children, give_back, kill, use_inodes, use_room};

impl Chaos {
    /// Kills a process. A role's parent is started again, as a service manager does.
    pub(super) fn kill_one(&mut self) -> anyhow::Result<&'static str> {
        self.kills += 1;
        let agent = self.chance.random_bool(0.5);
        match self.chance.random_range(0..6) {
            0 => {
                self.node(agent).crash();
                self.pause(300);
                self.node(agent).spawn()?;
                Ok("a role")
            }
            1 | 2 => {
                let parts: Vec<u32> = self.node(agent).parts().into_values().collect();
                self.pick(&parts).into_iter().for_each(kill);
                Ok("a part")
            }
            3 => {
                let shims = self.node(agent).shims();
                self.pick(&shims).into_iter().for_each(kill);
                Ok("a shim")
            }
            4 => {
                // Who comes into a container is started by a helper of its shim.
                let shims = self.node(agent).shims();
                let helpers: Vec<u32> = shims.iter().flat_map(|shim| children(*shim)).collect();
                self.pick(&helpers).into_iter().for_each(kill);
                Ok("a child of a shim")
            }
            _ => {
                let contained = self.node(agent).contained();
                self.pick(&contained).into_iter().for_each(kill);
                Ok("a process in a container")
            }
        }
    }

    pub(super) fn kill_some(&mut self, at_most: u64) -> anyhow::Result<()> {
        let mut killed = Vec::new();
        for _ in 0..self.chance.random_range(1..=at_most) {
            killed.push(self.kill_one()?);
            self.pause(400);
        }
        self.revive()?;
        self.settle(&format!("kill {} ({})", self.kills, killed.join(", ")))
    }

    /// Starts what has ended by itself, as a service manager does.
    pub(super) fn revive(&mut self) -> anyhow::Result<()> {
        for agent in [false, true] {
            self.node(agent).revive()?;
        }
        Ok(())
    }

    /// Lets a node's disk have no room, or no inode, for a while.
    pub(super) fn fill_disk(&mut self) -> anyhow::Result<()> {
        let (agent, inodes) = (self.chance.random_bool(0.5), self.chance.random_bool(0.5));
        let data = self.node(agent).folder().join("data");
        let filled = if inodes { use_inodes(&data) } else { use_room(&data) };
        self.pause(2000);
        if self.chance.random_range(0..3) == 0 {
            self.kill_one()?;
            self.pause(1000);
        }
        give_back(&data)?;
        filled?;
        self.revive()?;
        self.settle(if inodes { "a disk without inodes" } else { "a full disk" })
    }

    /// The server vanishes without a word and comes back: the agent's connections hear nothing any more, in either direction.
    pub(super) fn lose_peer(&mut self) -> anyhow::Result<()> {
        let ask = ["ss", "-tnH", "state", "established", "( dport = :6443 )"].map(String::from);
        let open = self.cluster.agents[0].run(&ask, "").stdout;
        let port = |line: &str| line.split_whitespace().nth(2)?.rsplit(':').next()?.parse::<u16>().ok();
        let ports: Vec<String> = open.lines().filter_map(port).map(|port| port.to_string()).collect();
        anyhow::ensure!(!ports.is_empty(), "the agent has no connection: {open}");
        let ports = ports.join(", ");
        let rules = format!(
            "table inet vanished {{\n chain i {{ type filter hook input priority -300; tcp dport 6443 tcp sport {{ {ports} }} drop; }}\n \
             chain o {{ type filter hook output priority -300; tcp sport 6443 tcp dport {{ {ports} }} drop; }}\n}}\n"
        );
        let nft = |words: &[&str], input: &str| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_string()).collect();
            self.cluster.server.run(&words, input)
        };
        let written = nft(&["nft", "-f", "-"], &rules);
        anyhow::ensure!(written.code == 0, "{written:?}");
        self.cluster.server.crash();
        self.pause(500);
        self.cluster.server.spawn()?;
        self.cluster.eventually("the API answers", || Ok(self.cluster.kubectl(&["get", "nodes"]).code == 0))?;
        // Who is deaf doesn't hear of this.
        let pods = self.cluster.list("pods", "app=each")?;
        let there = pods.iter().find(|pod| pod["spec"]["nodeName"] == "agent-2").context("a pod of the agent")?;
        let name = there["metadata"]["name"].as_str().context("name")?;
        self.cluster.ok(&["delete", "pod", name, "--wait=false"])?;
        self.settle("a server that vanished")?;
        let removed = self.cluster.server.run(&["nft", "delete", "table", "inet", "vanished"].map(String::from), "");
        anyhow::ensure!(removed.code == 0, "{removed:?}");
        Ok(())
    }

    /// The clocks of both machines jump, within a month from now. Certificates are good for longer.
    pub(super) fn jump(&mut self) -> anyhow::Result<()> {
        let to = ["+0", "+20m", "+5h", "+1d", "+9d", "+30d"][self.chance.random_range(0..6)];
        std::fs::write(&self.clock, format!("{to}\n"))?;
        let pods = self.cluster.list("pods", "app=web")?;
        let name = pods.first().and_then(|pod| pod["metadata"]["name"].as_str()).context("a pod")?;
        self.cluster.ok(&["delete", "pod", name, "--wait=false"])?;
        self.settle(&format!("the clock's jump to {to}"))
    }
}
