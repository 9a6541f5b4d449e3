//! The query of a URL.

use apimachinery::{FieldSelector, LabelSelector, Status};
use http::Uri;

use api::Kind;

use crate::registry::Filter;

/// The query's parameters, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads a URL's query.
    pub fn parse(uri: &Uri) -> Self {
        let pairs = form_urlencoded::parse(uri.query().unwrap_or("").as_bytes());
        Query { pairs: pairs.map(|(k, v)| (k.into_owned(), v.into_owned())).collect() }
    }

    /// The first value of a parameter; empty if there is none.
    pub fn get(&self, key: &str) -> &str {
        self.pairs.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str())
    }

    /// All parameters, decoded.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// All values of a parameter that may be given several times.
    pub fn all(&self, key: &str) -> Vec<&str> {
        self.pairs.iter().filter(|(k, _)| k == key).map(|(_, v)| v.as_str()).collect()
    }

    /// Whether a parameter is set to true, in one of the ways in which Go writes it.
    pub fn flag(&self, key: &str) -> bool {
        self.pairs.iter().any(|(k, v)| k == key && matches!(v.as_str(), "" | "1" | "true" | "True"))
    }

    /// Whether a list with this query is one of the past.
    pub fn is_of_the_past(&self) -> bool {
        let (revision, matching) = (self.get("resourceVersion"), self.get("resourceVersionMatch"));
        let is_exact = !matches!(revision, "" | "0") && matching != "NotOlderThan";
        is_exact || !self.get("continue").is_empty()
    }

    /// A parameter that is a number; none if it is empty.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Status> {
        match self.get(key) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Status::bad_request(format!("{key}: Invalid value: {text:?}: it must be a number"))),
        }
    }

    /// Selectors of a list, watch or deletecollection of `kind`.
    ///
    /// # Errors
    /// 400 for a selector that can't be read, or a field that isn't selectable.
    pub fn filter(&self, kind: &Kind, namespace: &str) -> Result<Filter, Status> {
        let labels = LabelSelector::parse(self.get("labelSelector")).map_err(|e| Status::bad_request(e.to_string()))?;
        let mut fields =
            FieldSelector::parse(self.get("fieldSelector")).map_err(|e| Status::bad_request(e.to_string()))?;
        for (path, _, _) in &mut fields.terms {
            let common = path == "metadata.name" || (kind.namespaced && path == "metadata.namespace");
            if !common && !kind.selectable.contains(&path.as_str()) {
                return Err(Status::bad_request(format!("field label not supported: {path}")));
            }
            // The stored version may have other names for the fields.
            let place = kind.selectable.iter().position(|selectable| *selectable == path.as_str());
            let kept = kind.kept_as().and_then(|kept| kept.selectable.get(place?));
            if let Some(kept) = kept {
                *path = (*kept).into();
            }
        }
        Ok(Filter { namespace: namespace.into(), labels, fields })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(&"/x?labelSelector=a%3Db%2Cc&watch=1&limit=5&x".parse().unwrap());
        assert_eq!(query.get("labelSelector"), "a=b,c");
        assert!(query.flag("watch") && query.flag("x") && !query.flag("y"));
        assert_eq!(query.number::<u32>("limit").unwrap(), Some(5));
        assert!(query.number::<u32>("labelSelector").is_err());
    }
}
