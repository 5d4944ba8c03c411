//! Log lines: how many and in what form.

use tracing_subscriber::EnvFilter;

use super::problems::Problems;
use super::raw::RawLog;

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A directive of tracing's `EnvFilter`, such as `info` or `info,headpond::upstream=debug`. Default: `info`.
    pub level: String,
    /// The form of a line. Default: text.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::default() }
    }
}

pub(super) fn validate(raw: Option<RawLog>, problems: &mut Problems) -> Log {
    let raw = raw.unwrap_or_default();
    let default = Log::default();
    let level = raw.level.map_or(default.level, |level| level.0);
    check_level(&level, "log.level", problems);
    let format = match raw.format.as_ref().map(|format| format.0.as_str()) {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => {
            problems.add("log.format", format!("`{other}` is no format"), "text or json");
            default.format
        }
    };
    Log { level, format }
}

/// Reports a level that is no directive; `EnvFilter` would take any word as a module's name.
pub(super) fn check_level(level: &str, path: &str, problems: &mut Problems) {
    const HINT: &str = "error, warn, info, debug or trace; or by module: info,headpond::upstream=debug";
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let is_meant = |directive: &str| directive.contains('=') || LEVELS.contains(&directive.to_ascii_lowercase().as_str());
    if !level.split(',').map(str::trim).all(is_meant) || EnvFilter::try_new(level).is_err() {
        problems.add(path, format!("`{level}` is no log level"), HINT);
    }
}
