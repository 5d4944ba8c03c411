//! Log lines on stderr, as text or JSON, with a level that can be changed while running.

use std::io::IsTerminal;

use thiserror::Error;
use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// Changes what is logged.
#[derive(Clone, Debug)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Why logging could not be set up or changed.
#[derive(Debug, Error)]
pub enum LogError {
    /// The level is no directive of `EnvFilter`.
    #[error("the log level is not of a known form: {0}")]
    Level(#[from] ParseError),
    /// Something else in the process logs already.
    #[error(transparent)]
    Init(#[from] TryInitError),
    /// The subscriber is gone.
    #[error(transparent)]
    Reload(#[from] reload::Error),
}

impl LogHandle {
    /// Changes the level; the form of lines needs a restart.
    ///
    /// # Errors
    /// When `level` is no directive of `EnvFilter`; what was logged before is then logged on.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = EnvFilter::try_new(level)?;
        Ok(self.filter.reload(filter)?)
    }
}

/// Sets up logging for the process, on stderr.
///
/// # Errors
/// When the level is wrong, or logging is set up already.
pub fn init(log: &Log) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = subscriber(log, std::io::stderr, std::io::stderr().is_terminal())?;
    subscriber.try_init()?;
    Ok(handle)
}

/// `coloured`: with terminal colours, as text only.
fn subscriber<W>(log: &Log, writer: W, coloured: bool) -> Result<(impl Subscriber + Send + Sync + 'static, LogHandle), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(&log.level)?);
    let lines = match log.format {
        LogFormat::Text => fmt::layer().with_writer(writer).with_ansi(coloured).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(writer).boxed(),
    };
    Ok((tracing_subscriber::registry().with(filter).with(lines.with_filter(unwatched())), LogHandle { filter: handle }))
}

/// The AWS SDK writes whole answers into its lines below this level, with tokens in them: no level asked
/// for shows these.
fn unwatched() -> Targets {
    Targets::new().with_default(LevelFilter::TRACE).with_target("aws_", LevelFilter::INFO)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn taken(&self) -> String {
            String::from_utf8(std::mem::take(&mut self.0.lock().unwrap())).unwrap()
        }
    }

    fn with(level: &str, format: LogFormat, test: impl FnOnce(&LogHandle, &Lines)) {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, handle) = subscriber(&Log { level: level.to_owned(), format }, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, || test(&handle, &lines));
    }

    #[test]
    fn level_is_changed_while_running_and_a_wrong_one_changes_nothing() {
        with("info", LogFormat::Text, |handle, lines| {
            tracing::debug!("unheard");
            tracing::info!("heard");
            assert!(lines.taken().ends_with("heard\n"));
            handle.set_level("debug").unwrap();
            handle.set_level("headpond=loudest").unwrap_err();
            tracing::debug!("heard");
            assert!(lines.taken().contains("DEBUG"));
        });
    }

    #[test]
    fn answers_that_the_aws_sdk_logs_are_never_shown() {
        for level in ["trace", "aws_smithy_runtime=trace"] {
            with(level, LogFormat::Text, |_, lines| {
                tracing::debug!(target: "aws_smithy_runtime::client::orchestrator", "a token");
                assert_eq!(lines.taken(), "");
                tracing::warn!(target: "aws_config::imds", "a warning");
                assert!(lines.taken().contains("a warning") || level != "trace");
            });
        }
    }

    #[test]
    fn json_is_one_object_a_line_with_fields_beside_the_message() {
        with("info", LogFormat::Json, |_, lines| {
            tracing::info!(bytes = 7, "sent");
            let line: serde_json::Value = serde_json::from_str(&lines.taken()).unwrap();
            assert_eq!((&line["message"], &line["bytes"], &line["level"]), (&"sent".into(), &7.into(), &"INFO".into()));
        });
    }
}
