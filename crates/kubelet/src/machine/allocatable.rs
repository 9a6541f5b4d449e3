//! What of the machine is the pods' (node allocatable): all of it but what is reserved, what evictions keep free, and huge pages.

use apimachinery::Quantity;
use runtime::huge_pages;
use runtime::spec::Limits;
use serde_json::{Value, json};

use super::MachineInfo;
use crate::config::{BadReservation, Config, EvictionSignal, Reserved};
use crate::spec::resources::shares;

impl Reserved {
    /// Checks that the machine has what is reserved.
    ///
    /// # Errors
    /// [`BadReservation::TooMuch`] when it hasn't.
    pub fn check(&self, facts: &MachineInfo) -> Result<(), BadReservation> {
        let capacities = [
            ("cpu", Quantity::from_int(facts.cpus as i64)),
            ("memory", Quantity::from_int(facts.memory_kib as i64 * 1024)),
            ("ephemeral-storage", Quantity::from_int(facts.disk_bytes as i64)),
            ("pid", Quantity::from_int(facts.pids as i64)),
        ];
        for (resource, capacity) in capacities {
            let reserved = self.of(resource);
            // The disk isn't known before its folder is made.
            if reserved > capacity && !(resource == "ephemeral-storage" && facts.disk_bytes == 0) {
                let text = |amount: Quantity| amount.canonical(resource == "memory" || resource == "ephemeral-storage");
                let (reserved, capacity) = (text(reserved), text(capacity));
                return Err(BadReservation::TooMuch { resource: resource.into(), reserved, capacity });
            }
        }
        Ok(())
    }
}

/// `status.capacity` and `status.allocatable` of the node.
pub fn amounts(config: &Config, facts: &MachineInfo) -> (Value, Value) {
    let mut capacity = json!({"cpu": facts.cpus.to_string(), "memory": format!("{}Ki", facts.memory_kib),
        "pods": config.max_pods.to_string(), "ephemeral-storage": facts.disk_bytes.to_string()});
    for (size, bytes) in &facts.huge_pages {
        capacity[huge_pages::resource(*size)] = Quantity::from_int(*bytes as i64).canonical(true).into();
    }
    let huge: u64 = facts.huge_pages.iter().map(|(_, bytes)| bytes).sum();
    let memory = facts.memory_kib * 1024;
    let kept = |signal, whole| config.eviction_hard.reserved(signal, whole);
    let without = |name: &str, whole: u64, taken: u64| {
        whole.saturating_sub(taken).saturating_sub(u64::try_from(config.reserved.of(name).value()).unwrap_or(u64::MAX))
    };
    let mut allocatable = capacity.clone();
    let left = without("memory", memory, huge.saturating_add(kept(EvictionSignal::Memory, memory)));
    allocatable["memory"] = format!("{}Ki", left / 1024).into();
    let left = without("ephemeral-storage", facts.disk_bytes, kept(EvictionSignal::Disk, facts.disk_bytes));
    allocatable["ephemeral-storage"] = left.to_string().into();
    let left = (Quantity::from_int(facts.cpus as i64) - config.reserved.of("cpu")).max(Quantity::ZERO);
    allocatable["cpu"] = left.canonical(false).into();
    (capacity, allocatable)
}

/// What all pods together may use, where something is reserved.
pub fn limits_of_all_pods(config: &Config, facts: &MachineInfo) -> Option<Limits> {
    let reserved = &config.reserved;
    if reserved.is_empty() {
        return None;
    }
    let left = |name: &str, whole: u64| match reserved.of(name).value() {
        0 => 0,
        reserved => (whole as i64 - reserved).max(1),
    };
    let cpu = (facts.cpus as i64 * 1000 - reserved.of("cpu").milli()).max(1);
    Some(Limits {
        cpu_shares: shares(cpu),
        memory_bytes: left("memory", facts.memory_kib * 1024),
        pids: left("pid", facts.pids),
        ..Limits::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> MachineInfo {
        let huge_pages = vec![(2 << 20, 64 << 20)];
        MachineInfo {
            cpus: 4,
            memory_kib: 4 << 20,
            disk_bytes: 100_000,
            pids: 32_768,
            huge_pages,
            ..MachineInfo::default()
        }
    }

    #[test]
    fn pods_get_what_is_left() {
        let mut config = crate::config::tests::config();
        let seen = |config: &Config| {
            let (capacity, allocatable) = amounts(config, &facts());
            assert_eq!((&capacity["cpu"], &capacity["memory"]), (&json!("4"), &json!("4194304Ki")));
            assert_eq!((&capacity["hugepages-2Mi"], &allocatable["hugepages-2Mi"]), (&json!("64Mi"), &json!("64Mi")));
            ["cpu", "memory", "ephemeral-storage"].map(|name| allocatable[name].as_str().unwrap_or("").to_string())
        };
        assert_eq!(seen(&config), ["4", "4128768Ki", "100000"]);
        assert_eq!(limits_of_all_pods(&config, &facts()), None);
        config.eviction_hard = "memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%".parse().unwrap();
        let system: Reserved = "cpu=500m, memory=1Gi".parse().unwrap();
        config.reserved = system.and(&"cpu=1,ephemeral-storage=1000,pid=768".parse().unwrap());
        assert_eq!(seen(&config), ["2500m", "2977792Ki", "94000"]);
        let bounds = limits_of_all_pods(&config, &facts()).unwrap();
        assert_eq!((bounds.cpu_shares, bounds.memory_bytes, bounds.pids), (2560, 3 << 30, 32_000));
        config.eviction_hard = "memory.available<100Pi".parse().unwrap();
        assert_eq!(seen(&config)[1], "0Ki");
    }

    #[test]
    fn bad_reservations_say_why() {
        let said = |text: &str| text.parse::<Reserved>().map_err(|error| error.to_string()).unwrap_err();
        assert!(said("disk=1Gi").starts_with("\"disk=1Gi\" is no reservation"), "{}", said("disk=1Gi"));
        assert!(said("cpu").contains("it must be like cpu=200m"));
        assert!(said("memory=-1").contains("memory=-1"));
        let much: Reserved = "memory=5Gi".parse().unwrap();
        assert!(
            much.check(&facts())
                .unwrap_err()
                .to_string()
                .starts_with("5Gi of memory can't be reserved, as the machine has 4Gi")
        );
        assert!("cpu=4,pid=100".parse::<Reserved>().unwrap().check(&facts()).is_ok());
    }
}
