//! One connection to RabbitMQ: how it is opened, how its failures are told apart, and that no wait on it is endless.
//!
//! lapin's own recovery is off; a connection that failed in any way is dropped whole, and the supervisor opens another
//! one. Nothing here, errors included, ever shows the password.

use std::future::Future;
use std::time::Duration;

use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};

use super::super::BrokerError;
use crate::config::SecretUrl;

const ACCESS_REFUSED: u16 = 403;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// Why a connection cannot be had, or has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("refused")]
    Refused(#[source] lapin::Error),
    #[error("{because}")]
    RefusedBecause {
        because: String,
        #[source]
        source: lapin::Error,
    },
    #[error("connection failed")]
    Failed(#[from] lapin::Error),
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    #[error("the connection ended")]
    Ended,
    #[error("the consumer was cancelled by the broker")]
    ConsumerCancelled,
    #[error("messages wait in the queue and do not come")]
    PassedOver,
    #[error("an acknowledgement was not taken")]
    AcknowledgementLost,
    #[error("the broker takes messages again")]
    Unblocked,
}

impl LinkError {
    /// Sorts out those failures that waiting does not heal.
    fn of(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(amqp) if [ACCESS_REFUSED, NOT_ALLOWED].contains(&amqp.get_id()) => {
                Self::Refused(error)
            }
            ErrorKind::AuthProviderError(_) | ErrorKind::InvalidProtocolVersion(_) => Self::Refused(error),
            _ => Self::Failed(error),
        }
    }

    /// Gives a failed precondition (406) a sentence.
    pub(super) fn refused_because(self, because: &str) -> Self {
        match self {
            Self::Failed(source) if matches!(source.kind(), ErrorKind::ProtocolError(amqp) if amqp.get_id() == PRECONDITION_FAILED) => {
                Self::RefusedBecause { because: because.to_owned(), source }
            }
            other => other,
        }
    }

    /// What the caller of the broker is told.
    pub(super) fn to_broker_error(&self) -> BrokerError {
        match self {
            Self::Refused(source) => BrokerError::Refused(reason(source)),
            Self::RefusedBecause { because, source } => {
                BrokerError::Refused(format!("{because} ({})", reason(source)))
            }
            Self::Failed(source) => BrokerError::Unreachable(reason(source)),
            other => BrokerError::Unreachable(other.to_string()),
        }
    }
}

/// What the broker said, or what the network did. Neither holds a password: it is sent, and never repeated.
fn reason(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => amqp.get_message().to_string(),
        ErrorKind::IOError(io) => io.to_string(),
        _ => error.to_string(),
    }
}

/// The deadline of every wait for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Within(pub(super) Duration);

impl Within {
    pub(super) async fn answer<T>(
        self,
        question: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, LinkError> {
        match tokio::time::timeout(self.0, question).await {
            Ok(answer) => answer.map_err(LinkError::of),
            Err(_) => Err(LinkError::NoAnswer(self.0)),
        }
    }
}

/// Where to connect to, parsed once. It holds the password, so it has no `Debug` of lapin's making.
#[derive(Clone)]
pub(super) struct Address {
    uri: AMQPUri,
    within: Within,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.uri.authority.host, self.uri.authority.port)
    }
}

impl Address {
    pub(super) fn parse(url: &SecretUrl, heartbeat: Duration, within: Within) -> Result<Self, BrokerError> {
        // The text is not repeated, as the parser's own message does: who knows where its password is.
        let mut uri: AMQPUri = url.expose().parse().map_err(|_| {
            BrokerError::Refused(
                "the address is not of the form amqp://user:password@host:5672/vhost".to_owned(),
            )
        })?;
        if cfg!(not(feature = "amqps")) && uri.scheme == lapin::uri::AMQPScheme::AMQPS {
            return Err(BrokerError::Refused(
                "this program is built without TLS (feature `amqps`)".to_owned(),
            ));
        }
        uri.query.heartbeat = Some(u16::try_from(heartbeat.as_secs().max(1)).unwrap_or(u16::MAX));
        Ok(Self { uri, within })
    }

    /// Opens a connection that people can tell by its `name` in the broker's list, and one channel on it.
    pub(super) async fn open(&self, name: &str) -> Result<Opened, LinkError> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connection = self.within.answer(Connection::connect_uri(self.uri.clone(), properties)).await?;
        let channel = self.within.answer(connection.create_channel()).await?;
        Ok(Opened { channel, connection, within: self.within })
    }
}

/// An open connection. When it is dropped lapin closes it, without anybody waiting for that.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) channel: Channel,
    pub(super) connection: Connection,
    within: Within,
}

impl Opened {
    /// Says good-bye; the broker requeues at once what was not acknowledged.
    pub(super) async fn close(self) {
        // Whatever comes of it, the connection is dropped next.
        let _ = self.within.answer(self.connection.close(200, "OK".into())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, BrokerError> {
        Address::parse(&SecretUrl::new(url), Duration::from_secs(10), Within(Duration::from_secs(1)))
    }

    #[test]
    fn an_address_that_cannot_be_used_is_refused_without_its_password() {
        for url in ["http://u:hunter2@h/", "amqp:u:hunter2", "hunter2", "amqp://u:hunter2@h/?heartbeat=x"] {
            let text = parse(url).unwrap_err().to_string();
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn an_address_is_shown_without_user_and_password() {
        assert_eq!(format!("{:?}", parse("amqp://u:hunter2@h:1/v").unwrap()), "h:1");
    }
}
