//! Taints of devices (KEP-5055).

use k8s_openapi::api::resource::v1::{DeviceTaint, DeviceTaintRule, DeviceToleration};

/// Whether a toleration is about a taint (upstream's `resourceclaim.ToleratesTaint`). What the taint's effect means is another question.
pub fn tolerates_device(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let is_any = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
    let is_about = |wanted: &Option<String>, of: &str| is_any(wanted) || wanted.as_deref() == Some(of);
    if !is_about(&toleration.effect, &taint.effect) || !is_about(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        None | Some("" | "Equal") => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        Some("Exists") => true,
        Some(_) => false,
    }
}

/// Whether a rule taints a device. An empty selector is about all devices, and none at all about none.
pub fn rule_taints(rule: &DeviceTaintRule, (driver, pool, device): (&str, &str, &str)) -> bool {
    let is = |wanted: &Option<String>, of: &str| wanted.as_ref().is_none_or(|wanted| wanted == of);
    rule.spec.device_selector.as_ref().is_some_and(|selector| {
        is(&selector.driver, driver) && is(&selector.pool, pool) && is(&selector.device, device)
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::resource::v1::{DeviceTaintRuleSpec, DeviceTaintSelector};

    use super::*;

    #[test]
    fn tolerations_match_as_upstreams_do() {
        let taint = DeviceTaint {
            key: "broken".into(),
            value: Some("fan".into()),
            effect: "NoExecute".into(),
            time_added: None,
        };
        let text = |text: &str| Some(text).filter(|text| !text.is_empty()).map(String::from);
        for (key, operator, value, effect, is) in [
            ("broken", "Equal", "fan", "", true),
            ("broken", "", "fan", "NoExecute", true),
            ("broken", "Equal", "disk", "", false),
            ("broken", "Exists", "", "", true),
            ("broken", "Exists", "", "NoSchedule", false),
            ("", "Exists", "", "", true),
            ("other", "Exists", "", "", false),
            ("broken", "Unknown", "fan", "", false),
        ] {
            let toleration = DeviceToleration {
                key: text(key),
                operator: text(operator),
                value: text(value),
                effect: text(effect),
                toleration_seconds: None,
            };
            assert_eq!(tolerates_device(&toleration, &taint), is, "{toleration:?}");
        }
    }

    #[test]
    fn a_rule_is_about_all_that_its_selector_says() {
        let rule = |selector| DeviceTaintRule {
            spec: DeviceTaintRuleSpec { device_selector: selector, ..DeviceTaintRuleSpec::default() },
            ..DeviceTaintRule::default()
        };
        let device = ("gpu.example.com", "node-1", "gpu-0");
        let selector = |driver: &str, pool: Option<&str>| {
            let pool = pool.map(String::from);
            Some(DeviceTaintSelector { driver: Some(driver.into()), pool, device: None })
        };
        assert!(!rule_taints(&rule(None), device));
        assert!(rule_taints(&rule(Some(DeviceTaintSelector::default())), device));
        assert!(rule_taints(&rule(selector("gpu.example.com", Some("node-1"))), device));
        assert!(!rule_taints(&rule(selector("gpu.example.com", Some("node-2"))), device));
        assert!(!rule_taints(&rule(selector("nic.example.com", None)), device));
    }
}
