//! Objects of every kind with the most extreme numbers, amounts and times in every field that can hold one: what decides
//! about them without doing anything must say yes or no, and end.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::schema::{Type, types};
use crate::{KINDS, Kind, OLDER, kinds};

/// Chance from a seed (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize].clone()
    }

    fn number(&mut self, bits: u8) -> Value {
        let narrow = [i64::from(i32::MIN), i64::from(i32::MAX), 0, -1, 1, 65_536];
        let wide = [i64::MIN, i64::MAX, i64::MAX - 1, 1 << 53];
        if bits == 64 && self.below(2) == 0 { self.of(&wide).into() } else { self.of(&narrow).into() }
    }

    fn value(&mut self, of: &Type, depth: usize) -> Value {
        match types().resolve(of) {
            Type::Object { fields, .. } => {
                let mut object = Map::new();
                for (field, of) in fields {
                    // The deeper, the fewer: some types hold themselves.
                    if self.below(10) as usize > depth {
                        object.insert(field.clone(), self.value(of, depth + 1));
                    }
                }
                object.into()
            }
            Type::Map { values, .. } => {
                json!({self.of(&["a", "cpu", "pods", "memory"]): self.value(values, depth + 1)})
            }
            Type::List { items, .. } => (0..self.below(3)).map(|_| self.value(items, depth + 1)).collect(),
            Type::Integer { bits } => self.number(*bits),
            Type::Number => json!(self.of(&[f64::MAX, f64::MIN, 0.0, -1.0])),
            Type::IntOrString => {
                let number = self.number(32);
                self.of(&[number, json!("2147483648%"), json!("-1%"), json!("")])
            }
            Type::Quantity => {
                self.of(&["9223372036854775807", "-9223372036854775808", "9E", "8Ei", "1n", "0", "-1n", "1e18"]).into()
            }
            Type::Time { .. } => {
                self.of(&["0001-01-01T00:00:00Z", "9999-12-30T22:00:00Z", "1970-01-01T00:00:00Z"]).into()
            }
            Type::Bool => (self.below(2) == 0).into(),
            Type::Bytes => self.of(&["", "YQ=="]).into(),
            Type::String => self
                .of(&[
                    "",
                    "a",
                    "RollingUpdate",
                    "Indexed",
                    "0",
                    "99999999999999999999",
                    "Container",
                    "In",
                    "Exists",
                    "cpu",
                    "RAM",
                    "NodePort",
                    "Resource",
                    "10.0.0.0/8",
                    "*/1 * * * *",
                    "3-1",
                    "0-4294967295",
                ])
                .into(),
            Type::Named(_) | Type::Any => json!({}),
        }
    }

    fn object(&mut self, kind: &Kind) -> Value {
        let mut object = self.value(&Type::Named(kind.schema()), 0);
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = kind.kind.into();
        object
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn extremes_in_every_field_of_every_kind_are_judged(seed in 1..u64::MAX) {
        let mut chance = Chance(seed);
        for kind in KINDS.iter().chain(OLDER) {
            let (mut object, mut old) = (chance.object(kind), chance.object(kind));
            for object in [&mut object, &mut old] {
                let found = types().check(&kind.schema(), object);
                prop_assert!(found.unknown.is_empty() && found.mismatched.is_empty(), "{}: {found:?}", kind.kind);
                // The second look changes nothing.
                let once = object.clone();
                types().check(&kind.schema(), object);
                prop_assert_eq!(&once, &*object, "{}", kind.kind);
                kind.apply_defaults(object);
            }
            let _ = kind.check(&object, None);
            let _ = kind.check(&object, Some(&old));
            let _ = crate::quota::usage(kind, &object);
            let _ = crate::columns::table(&kind.strategy.printer, &[object.clone()], |_| Value::Null, json!({}));
            let _ = crate::protobuf::object_message(kind, &object);
            let of = crate::managed::typed(&kind.schema());
            let merged = of.merge(&old, &object);
            let _ = of.compare(&old, &merged);
            if let Some(kept) = kind.kept_as() {
                kind.convert(&mut object, &kept.api_version());
                kind.convert(&mut object, &kind.api_version());
            }
            if kind == kinds::PODS {
                let _ = crate::check_resize(&object, &old);
            }
        }
    }
}
