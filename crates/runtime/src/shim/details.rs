//! What the container library tells beside its errors.

/// The library tells the reasons of its errors only as tracing events: they are gathered in memory.
pub struct Details(std::sync::Arc<parking_lot::Mutex<Vec<String>>>);

impl Details {
    pub fn text(&self) -> String {
        let all = self.0.lock();
        if all.is_empty() { String::new() } else { format!(" ({})", all.join("; ")) }
    }
}

pub fn gather() -> Details {
    let gathered = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let collector = Collector(gathered.clone());
    let _ = tracing::subscriber::set_global_default(collector);
    Details(gathered)
}

struct Collector(std::sync::Arc<parking_lot::Mutex<Vec<String>>>);

impl tracing::Subscriber for Collector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                use std::fmt::Write as _;
                let _ = write!(self.0, "{}{}={value:?}", if self.0.is_empty() { "" } else { " " }, field.name());
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().push(text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
