//! Reads the text that Prometheus scrapes, as far as the benchmarks ask it: values by name and labels.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

/// Every series of one scrape.
#[derive(Debug, Default)]
pub struct MetricsText {
    series: Vec<Series>,
}

#[derive(Debug)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// What a histogram says of all that it has seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observed {
    /// How many observations.
    pub count: f64,
    /// Their sum.
    pub sum: f64,
}

impl MetricsText {
    /// Reads a scrape; lines that are no series are left out.
    pub fn parse(text: &str) -> Self {
        Self { series: text.lines().filter(|line| !line.starts_with('#')).filter_map(series).collect() }
    }

    /// The values that a label has in the series of this name, each once, in the order of the text.
    pub fn label_values(&self, name: &str, label: &str) -> Vec<String> {
        let mut values: Vec<String> = Vec::new();
        for series in self.series.iter().filter(|series| series.name == name) {
            let value = series.label(label).unwrap_or_default();
            if !values.iter().any(|known| known == value) {
                values.push(value.to_owned());
            }
        }
        values
    }

    /// A histogram's observations with this label, added up over all other labels. `None` where there are none.
    pub fn observed(&self, histogram: &str, label: (&str, &str)) -> Option<Observed> {
        let count = self.counted(&format!("{histogram}_count"), label).filter(|count| *count > 0.0)?;
        Some(Observed { count, sum: self.counted(&format!("{histogram}_sum"), label)? })
    }

    /// What a counter says with this label, added up over all other labels. `None` where it has no such series.
    pub fn counted(&self, counter: &str, label: (&str, &str)) -> Option<f64> {
        let matching = self.series.iter().filter(|series| series.name == counter);
        let mut values =
            matching.filter(|series| series.label(label.0) == Some(label.1)).map(|series| series.value);
        values.next().map(|first| first + values.sum::<f64>())
    }
}

impl Series {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Reads `name{label="value",...} 1.5`. Our labels hold no escapes.
fn series(line: &str) -> Option<Series> {
    let (head, value) = line.rsplit_once(' ')?;
    let (name, labels) = match head.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (head, ""),
    };
    let labels = labels.split("\",").filter_map(|label| {
        let (name, value) = label.split_once("=\"")?;
        Some((name.to_owned(), value.trim_end_matches('"').to_owned()))
    });
    Some(Series { name: name.to_owned(), labels: labels.collect(), value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP step_seconds What a step takes, by step.
# TYPE step_seconds histogram
step_seconds_bucket{render=\"full\",step=\"open\",le=\"0.1\"} 3
step_seconds_sum{render=\"full\",step=\"open\"} 0.5
step_seconds_count{render=\"full\",step=\"open\"} 4
step_seconds_sum{render=\"static\",step=\"open\"} 0.25
step_seconds_count{render=\"static\",step=\"open\"} 1
step_seconds_sum{render=\"full\",step=\"close\"} 0
step_seconds_count{render=\"full\",step=\"close\"} 0
pages_total 7
fetched_total{render=\"auto\",outcome=\"completed\"} 2
fetched_total{render=\"auto\",outcome=\"failed\"} 1
";

    #[test]
    fn a_histogram_is_added_up_over_its_other_labels() {
        let metrics = MetricsText::parse(TEXT);
        assert_eq!(
            metrics.observed("step_seconds", ("step", "open")),
            Some(Observed { count: 5.0, sum: 0.75 })
        );
        assert_eq!(metrics.observed("step_seconds", ("step", "close")), None, "nothing was observed");
        assert_eq!(metrics.observed("other_seconds", ("step", "open")), None);
        assert_eq!(metrics.label_values("step_seconds_count", "step"), ["open", "close"]);
    }

    #[test]
    fn a_counter_without_the_label_says_nothing() {
        let metrics = MetricsText::parse(TEXT);
        assert_eq!(metrics.counted("fetched_total", ("render", "auto")), Some(3.0));
        assert_eq!(metrics.counted("fetched_total", ("render", "full")), None);
        assert_eq!(metrics.counted("pages_total", ("render", "full")), None);
    }
}
