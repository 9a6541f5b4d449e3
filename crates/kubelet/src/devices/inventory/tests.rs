use plugins::deviceplugin::{NumaNode, TopologyInfo};

use super::*;

const GPU: &str = "acme.com/gpu";

fn device(id: &str, health: &str) -> PluginDevice {
    PluginDevice { id: id.into(), health: health.into(), topology: None }
}

fn with(ids: &[&str]) -> Inventory {
    let mut inventory = Inventory::default();
    inventory.connected(GPU);
    inventory.update(GPU, ids.iter().map(|id| device(id, HEALTHY)).collect());
    inventory
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_string()).collect()
}

fn take(inventory: &mut Inventory, of: (&str, &str), needed: usize) -> Result<Vec<String>, AllocationError> {
    inventory.reserve(of, GPU, needed, &BTreeSet::new(), &[])
}

#[test]
fn a_device_has_one_owner_until_its_pod_ends() {
    let mut inventory = with(&["a", "b", "c"]);
    assert_eq!(take(&mut inventory, ("one", "main"), 2).unwrap(), ["a", "b"]);
    assert_eq!(
        take(&mut inventory, ("one", "main"), 2).unwrap(),
        [""; 0],
        "a container that was restarted keeps its devices"
    );
    let few = take(&mut inventory, ("two", "main"), 2).unwrap_err();
    assert_eq!(few.to_string(), "requested number of devices unavailable for acme.com/gpu. Requested: 2, Available: 1");
    assert!(!inventory.allocations().contains_key("two"));
    assert!(inventory.release("one") && !inventory.release("one"));
    assert_eq!(take(&mut inventory, ("two", "main"), 3).unwrap(), ["a", "b", "c"]);
}

#[test]
fn a_plugin_is_heard_about_what_goes_together() {
    let mut inventory = with(&["a", "b", "c", "d"]);
    let preferred = ["d", "gone", "b", "d"].map(String::from);
    let chosen = inventory.reserve(("one", "main"), GPU, 3, &BTreeSet::new(), &preferred).unwrap();
    assert_eq!(chosen, ["a", "b", "d"], "the preferred ones, and one more");
}

#[test]
fn what_an_init_container_leaves_is_given_first() {
    let mut inventory = with(&["a", "b", "c"]);
    assert_eq!(take(&mut inventory, ("other", "main"), 1).unwrap(), ["a"]);
    assert_eq!(take(&mut inventory, ("one", "init"), 2).unwrap(), ["b", "c"]);
    let left = set(&["b", "c"]);
    assert_eq!(inventory.reserve(("one", "first"), GPU, 1, &left, &[]).unwrap(), ["b"]);
    assert_eq!(inventory.reserve(("one", "second"), GPU, 1, &set(&["c"]), &[]).unwrap(), ["c"]);
    let more = inventory.reserve(("one", "third"), GPU, 2, &set(&["c"]), &[]).unwrap_err();
    assert!(more.to_string().ends_with("Requested: 1, Available: 0"), "{more}");
    assert_eq!(inventory.allocated(), [(GPU.to_string(), 3)].into(), "a device counts once, whoever of the pod has it");
}

#[test]
fn only_healthy_devices_are_given() {
    let mut inventory = with(&["a", "b"]);
    assert_eq!(take(&mut inventory, ("one", "main"), 1).unwrap(), ["a"]);
    let sick = inventory.update(GPU, vec![device("a", "Unhealthy"), device("b", HEALTHY)]);
    assert_eq!(sick, set(&["one"]));
    assert!(!inventory.is_healthy(GPU, "a") && inventory.is_healthy(GPU, "b") && inventory.is_healthy(GPU, "unknown"));
    assert_eq!(take(&mut inventory, ("one", "main"), 1), Err(AllocationError::Sick(GPU.into())));
    assert_eq!(take(&mut inventory, ("two", "main"), 1).unwrap(), ["b"]);
    assert!(inventory.update(GPU, vec![device("a", "Unhealthy"), device("b", HEALTHY)]).is_empty(), "nothing changed");
    assert_eq!(inventory.update(GPU, Vec::new()), set(&["one", "two"]), "a device that vanished is of interest, too");
    assert_eq!(take(&mut inventory, ("three", "main"), 1), Err(AllocationError::Unhealthy(GPU.into())));
    let unknown = inventory.reserve(("three", "main"), "acme.com/none", 1, &BTreeSet::new(), &[]);
    assert_eq!(unknown, Err(AllocationError::Unregistered("acme.com/none".into())));
}

#[tokio::test(start_paused = true)]
async fn a_resource_outlives_its_plugin_for_five_minutes() {
    let mut inventory = with(&["a", "b"]);
    take(&mut inventory, ("one", "main"), 1).unwrap();
    let begin = Instant::now();
    let amount = |capacity, allocatable| [(GPU.to_string(), Amount { capacity, allocatable })].into();
    assert_eq!(inventory.capacity(begin), amount(2, 2));
    assert_eq!(inventory.disconnected(GPU, begin), set(&["one"]));
    assert_eq!(inventory.capacity(begin), amount(2, 0));
    assert_eq!(inventory.next_removal(), Some(begin + STOP_GRACE_PERIOD));
    inventory.connected(GPU);
    inventory.update(GPU, vec![device("a", HEALTHY)]);
    assert_eq!(inventory.capacity(begin + 2 * STOP_GRACE_PERIOD), amount(1, 1), "it is back");
    inventory.disconnected(GPU, begin);
    assert_eq!(inventory.capacity(begin + STOP_GRACE_PERIOD), amount(0, 0));
    inventory.forget_gone(begin);
    assert_eq!(inventory.capacity(begin), amount(1, 0), "it isn't gone for long enough");
    inventory.forget_gone(begin + STOP_GRACE_PERIOD);
    assert!(inventory.capacity(begin + STOP_GRACE_PERIOD).is_empty() && inventory.next_removal().is_none());
    assert!(inventory.serves(GPU), "a pod still has one");
    inventory.release("one");
    assert!(!inventory.serves(GPU));
}

#[test]
fn a_restored_inventory_waits_for_its_plugins() {
    let mut before = with(&["a", "b"]);
    take(&mut before, ("one", "main"), 1).unwrap();
    let resources = before.resources().cloned().collect();
    let mut inventory = Inventory::restored(resources, before.allocations().clone(), Instant::now());
    assert_eq!(inventory.capacity(Instant::now())[GPU], Amount { capacity: 0, allocatable: 0 });
    assert_eq!(inventory.allocated(), [(GPU.to_string(), 1)].into());
    assert_eq!(take(&mut inventory, ("two", "main"), 1), Err(AllocationError::Unhealthy(GPU.into())));
    inventory.connected(GPU);
    inventory.update(GPU, vec![device("a", HEALTHY), device("b", HEALTHY)]);
    assert_eq!(take(&mut inventory, ("two", "main"), 1).unwrap(), ["b"]);
}

#[test]
fn what_a_plugin_tells_is_bounded() {
    let mut inventory = Inventory::default();
    inventory.update(GPU, (0..MAX_DEVICES + 5).map(|n| device(&n.to_string(), HEALTHY)).collect());
    assert_eq!(inventory.capacity(Instant::now())[GPU].capacity, MAX_DEVICES);
    inventory.update(GPU, vec![device(&"x".repeat(MAX_ID_BYTES + 1), HEALTHY), device("a", HEALTHY)]);
    assert_eq!(inventory.capacity(Instant::now())[GPU].capacity, 1, "an id that is too long is left out");
    for n in 0..MAX_RESOURCES {
        inventory.connected(&format!("acme.com/r{n}"));
    }
    assert!(!inventory.has_room_for("acme.com/more") && inventory.has_room_for(GPU));
}

#[test]
fn nodes_of_devices_are_kept() {
    let mut inventory = Inventory::default();
    let topology = Some(TopologyInfo { nodes: vec![NumaNode { id: 1 }] });
    inventory.update(GPU, vec![PluginDevice { id: "a".into(), health: HEALTHY.into(), topology }]);
    take(&mut inventory, ("one", "main"), 1).unwrap();
    assert_eq!(inventory.of_container("one", "main").unwrap()[GPU].devices["a"], [1]);
    assert_eq!(
        inventory.allocatable().map(|(r, id, nodes)| (r.as_str(), id.as_str(), nodes.clone())).collect::<Vec<_>>(),
        [(GPU, "a", vec![1])]
    );
}
