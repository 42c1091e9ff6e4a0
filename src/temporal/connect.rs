//! Where the Temporal server is, and the connection to it.
//!
//! A flag wins over Temporal's own environment variables (`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`,
//! `TEMPORAL_TLS*`, ...), these over the profile in Temporal's config file, and that over `localhost:7233` and the
//! namespace `default`. Whatever is wrong is said under the name by which it was given.

use std::{
    collections::HashMap,
    error::Error,
    fmt, fs, io,
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};
use temporalio_client::{
    Connection, ConnectionOptions, GrpcCompression,
    envconfig::{ClientConfigProfile, ConfigError, DataSource, LoadClientConfigProfileOptions},
    errors::ClientConnectError,
    grpc::WorkflowService,
    tonic::{Code, IntoRequest, Status},
};
use temporalio_common::{
    envconfig::{ClientConfigTLS, load_client_config_profile},
    protos::temporal::api::workflowservice::v1::DescribeNamespaceRequest,
    telemetry::metrics::TemporalMeter,
};
use url::Url;

/// How often [`Server::connect`] tries before it gives up.
pub const CONNECT_TRIES: u32 = 5;
/// How long one try may take, with the handshakes and the first answer.
pub const TRY_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after the first failed try; it doubles after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A server on this machine accepts at once; one elsewhere is not what [`Server::somebody_listens`] looks for.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(1);

const DEFAULT_ADDRESS: &str = "localhost:7233";
const DEFAULT_NAMESPACE: &str = "default";
const DEFAULT_CONFIG_FILE: &str = "~/.config/temporalio/temporal.toml";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configuration is wrong; the text says where, and what to do.
    #[error("{0}")]
    Config(String),
    /// No server answers, or none that speaks Temporal's protocol.
    #[error(
        "cannot reach the Temporal server at {address}: {reason}; start it, or name another with --address or \
         TEMPORAL_ADDRESS"
    )]
    Unreachable {
        /// The address that was tried.
        address: String,
        /// What the last try ended with.
        reason: String,
    },
    /// The server answers, and refuses the credentials.
    #[error(
        "the Temporal server at {address} refuses namespace '{namespace}': {reason}; check the API key or client \
         certificate, and --namespace"
    )]
    Denied {
        /// The address of the server.
        address: String,
        /// The namespace that was asked for.
        namespace: String,
        /// What the server says.
        reason: String,
    },
    /// The server has no such namespace.
    #[error(
        "no namespace '{namespace}' on the Temporal server at {address}: create it with 'temporal operator namespace \
         create --namespace {namespace}', or name another with --namespace or TEMPORAL_NAMESPACE"
    )]
    BadNamespace {
        /// The address of the server.
        address: String,
        /// The namespace that it doesn't have.
        namespace: String,
    },
}

impl ConnectError {
    /// By which a process tells another what is wrong: the exit code of the command line, too.
    pub(crate) fn code(&self) -> u8 {
        match self {
            ConnectError::Unreachable { .. } => 3,
            ConnectError::BadNamespace { .. } => 4,
            ConnectError::Config(_) | ConnectError::Denied { .. } => 8,
        }
    }
}

/// What was typed on the command line, or set by the program; what wasn't is `None`, and comes from elsewhere.
///
/// Holds a secret, so it is not `Debug`.
#[derive(Clone, Default)]
pub struct ConnectFlags {
    /// `--address`: `HOST:PORT`, or a URL.
    pub address: Option<String>,
    /// `--namespace`.
    pub namespace: Option<String>,
    /// `--profile`: which profile of the config file.
    pub profile: Option<String>,
    /// `--config-file`: Temporal's client configuration, TOML.
    pub config_file: Option<PathBuf>,
    /// `--api-key`: implies TLS.
    pub api_key: Option<String>,
    /// `--tls`: use TLS. So does each of the following.
    pub tls: bool,
    /// `--tls-ca`: certificate authority of the server, PEM.
    pub tls_ca: Option<PathBuf>,
    /// `--tls-cert`: client certificate, PEM.
    pub tls_cert: Option<PathBuf>,
    /// `--tls-key`: key of the client certificate, PEM.
    pub tls_key: Option<PathBuf>,
    /// `--tls-server-name`: name that the server's certificate must carry.
    pub tls_server_name: Option<String>,
    /// `--gzip`: compress messages to the server, and let it compress its own.
    pub gzip: bool,
}

impl ConnectFlags {
    /// These, and where something is not said what `other` says of it.
    #[cfg(feature = "cli")]
    pub(crate) fn or(self, other: ConnectFlags) -> ConnectFlags {
        ConnectFlags {
            address: self.address.or(other.address),
            namespace: self.namespace.or(other.namespace),
            profile: self.profile.or(other.profile),
            config_file: self.config_file.or(other.config_file),
            api_key: self.api_key.or(other.api_key),
            tls: self.tls || other.tls,
            tls_ca: self.tls_ca.or(other.tls_ca),
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            tls_server_name: self.tls_server_name.or(other.tls_server_name),
            gzip: self.gzip || other.gzip,
        }
    }
}

/// A server, as configured: where it is, and how to talk to it. Nothing has been connected yet.
///
/// ```no_run
/// use shmworker::temporal::connect::{ConnectError, ConnectFlags, Server};
///
/// # async fn example() -> Result<(), ConnectError> {
/// let flags = ConnectFlags { namespace: Some("billing".into()), ..ConnectFlags::default() };
/// let server = Server::resolve(&flags)?;
/// let connection = server.connect("my-program").await?;
/// server.check_namespace(&connection).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Server {
    options: ConnectionOptions,
    namespace: String,
    address: String,
    configured: bool,
}

impl fmt::Debug for Server {
    /// Leaves out the options: they hold the API key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Server { options: _, namespace, address, configured } = self;
        f.debug_struct("Server")
            .field("address", address)
            .field("namespace", namespace)
            .field("configured", configured)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Puts the flags, the environment and the config file together. Reads files, connects to nothing.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Config`], if anything that was given can't be used.
    pub fn resolve(flags: &ConnectFlags) -> Result<Server, ConnectError> {
        let mut env = HashMap::new();
        for (name, value) in std::env::vars_os() {
            if let Some(name) = name.to_str().filter(|name| name.starts_with("TEMPORAL_")) {
                let value = value.into_string().map_err(|_| ConnectError::Config(format!("{name} is not UTF-8")))?;
                env.insert(name.to_owned(), value);
            }
        }
        Server::resolve_in(flags, &env)
    }

    /// [`resolve`](Server::resolve), in an environment that is given rather than the process's.
    fn resolve_in(flags: &ConnectFlags, env: &HashMap<String, String>) -> Result<Server, ConnectError> {
        let given = Given { flags, env };
        let mut profile = given.profile()?;
        let configured = profile.address.is_some();
        let address = profile.address.get_or_insert_with(|| DEFAULT_ADDRESS.to_owned()).clone();
        let namespace = profile.namespace.take().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        given.check_api_key(&profile)?;
        given.settle_tls(&mut profile)?;
        let mut options = ConnectionOptions::try_from(profile).map_err(|error| given.config_error(error))?;
        options.connect_timeout = Some(TRY_TIMEOUT);
        // The SDK's default is gzip, which nearly halves the rate of small workflows where the server is near.
        options.grpc_compression = if flags.gzip { GrpcCompression::Gzip } else { GrpcCompression::None };
        Ok(Server { options, namespace, address, configured })
    }

    /// The address, as it was given: for messages.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether a flag, the environment or a profile names an address. If none does, the address is the default one.
    #[must_use]
    pub fn configured(&self) -> bool {
        self.configured
    }

    /// The port, if the address is one at which a dev server of this machine can be.
    #[cfg(feature = "cli")]
    pub(crate) fn local_port(&self) -> Option<u16> {
        let target = &self.options.target;
        let is_local = matches!(target.host_str(), Some("localhost" | "127.0.0.1")) && target.scheme() == "http";
        is_local.then(|| target.port()).flatten()
    }

    /// Whether any address of the server's host accepts a TCP connection. Blocks for up to a second per address and
    /// starts no thread, so that it may be asked before a fork.
    ///
    /// All addresses are tried, since `localhost` may be `::1` first where the server has only `127.0.0.1`.
    #[must_use]
    pub fn somebody_listens(&self) -> bool {
        let addresses = self.options.target.socket_addrs(|| None).unwrap_or_default();
        addresses.iter().any(|address| TcpStream::connect_timeout(address, LISTEN_TIMEOUT).is_ok())
    }

    /// Connects, as `identity`, which the server shows beside whatever this process does.
    ///
    /// Tries [`CONNECT_TRIES`] times with growing pauses, each for at most [`TRY_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// [`ConnectError::Unreachable`] after the last try; [`ConnectError::Denied`] and [`ConnectError::Config`] at once,
    /// as no further try would change them.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time and I/O enabled.
    pub async fn connect(&self, identity: impl Into<String>) -> Result<Connection, ConnectError> {
        self.connect_measured(identity, None).await
    }

    /// The same, with requests and their latencies counted by this meter.
    pub(crate) async fn connect_measured(
        &self,
        identity: impl Into<String>,
        meter: Option<TemporalMeter>,
    ) -> Result<Connection, ConnectError> {
        let mut options = self.options.clone();
        options.identity = identity.into();
        options.metrics_meter = meter;
        let (mut tries, mut pause) = (1, FIRST_PAUSE);
        loop {
            let reason = match tokio::time::timeout(TRY_TIMEOUT, Connection::connect(options.clone())).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => self.passing_failure(error)?,
                Err(_) => format!("no answer within {} s", TRY_TIMEOUT.as_secs()),
            };
            if tries == CONNECT_TRIES {
                return Err(self.unreachable(format!("{reason} ({tries} tries)")));
            }
            tokio::time::sleep(pause).await;
            tries += 1;
            pause *= 2;
        }
    }

    /// Asks the server whether it has the namespace.
    ///
    /// # Errors
    ///
    /// [`ConnectError::BadNamespace`] if it hasn't; [`ConnectError::Config`] if that can't be a namespace's name;
    /// [`ConnectError::Denied`] or [`ConnectError::Unreachable`] if it doesn't tell.
    pub async fn check_namespace(&self, connection: &Connection) -> Result<(), ConnectError> {
        let request = DescribeNamespaceRequest { namespace: self.namespace.clone(), ..Default::default() };
        let answer = WorkflowService::describe_namespace(&mut connection.clone(), request.into_request()).await;
        answer.map(drop).map_err(|status| self.refusal(&status))
    }

    /// The error for a call that failed for no reason of its own.
    pub(crate) fn refusal(&self, status: &Status) -> ConnectError {
        match status.code() {
            Code::NotFound => {
                ConnectError::BadNamespace { address: self.address.clone(), namespace: self.namespace.clone() }
            }
            Code::InvalidArgument => {
                let reason = reason(status);
                ConnectError::Config(format!("the Temporal server at {} can't do with this: {reason}", self.address))
            }
            Code::Unauthenticated | Code::PermissionDenied => ConnectError::Denied {
                address: self.address.clone(),
                namespace: self.namespace.clone(),
                reason: reason(status),
            },
            _ => self.unreachable(reason(status)),
        }
    }

    fn unreachable(&self, reason: String) -> ConnectError {
        ConnectError::Unreachable { address: self.address.clone(), reason }
    }

    /// The reason of a failure that another try may not meet; the error of one that it will.
    fn passing_failure(&self, error: ClientConnectError) -> Result<String, ConnectError> {
        match error {
            ClientConnectError::SystemInfoCallError(status) => match self.refusal(&status) {
                denied @ ConnectError::Denied { .. } => Err(denied),
                _ => Ok(reason(&status)),
            },
            ClientConnectError::TonicTransportError(error) => Ok(root_cause(&error)),
            ClientConnectError::DnsResolutionError { source, .. } => Ok(source.to_string()),
            error => Err(ConnectError::Config(format!("the connection to {} can't be set up: {error}", self.address))),
        }
    }
}

/// What the server says, or else what keeps it from saying anything.
fn reason(status: &Status) -> String {
    match status.source() {
        Some(source) => root_cause(source),
        None if status.message().is_empty() => status.code().to_string(),
        None => status.message().to_owned(),
    }
}

fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// All that was given, and under which name.
struct Given<'a> {
    flags: &'a ConnectFlags,
    env: &'a HashMap<String, String>,
}

impl Given<'_> {
    /// The profile, with the environment and then the flags laid over it. An empty string is nothing.
    fn profile(&self) -> Result<ClientConfigProfile, ConnectError> {
        let ConnectFlags { address, namespace, api_key, profile, .. } = self.flags;
        for name in ["TEMPORAL_TLS", "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION"] {
            if let Some(value) = self.env.get(name)
                && !["true", "false", "1", "0"].contains(&value.to_lowercase().as_str())
            {
                return Err(ConnectError::Config(format!("{name} is '{value}': it must be true or false")));
            }
        }
        let options = LoadClientConfigProfileOptions::builder()
            .maybe_config_source(self.config_source()?)
            .maybe_config_file_profile(profile.clone())
            .build();
        let mut loaded =
            load_client_config_profile(options, Some(self.env)).map_err(|error| self.config_error(error))?;
        let overlay =
            |typed: &Option<String>, loaded: Option<String>| typed.clone().or(loaded).filter(|s| !s.is_empty());
        loaded.address = overlay(address, loaded.address);
        loaded.namespace = overlay(namespace, loaded.namespace);
        loaded.api_key = overlay(api_key, loaded.api_key);
        Ok(loaded)
    }

    /// The file that was asked for by flag, read here since upstream takes one that is missing for an empty one.
    fn config_source(&self) -> Result<Option<DataSource>, ConnectError> {
        let Some(path) = &self.flags.config_file else { return Ok(None) };
        let data = fs::read(path).map_err(|error| {
            ConnectError::Config(format!("cannot read config file '{}' (--config-file): {error}", path.display()))
        })?;
        Ok(Some(DataSource::Data(data)))
    }

    fn config_error(&self, error: ConfigError) -> ConnectError {
        let from_env = || self.env.get("TEMPORAL_CONFIG_FILE").filter(|path| !path.is_empty());
        let file = match &self.flags.config_file {
            Some(path) => path.display().to_string(),
            None => from_env().cloned().unwrap_or_else(|| DEFAULT_CONFIG_FILE.to_owned()),
        };
        ConnectError::Config(match error {
            ConfigError::ProfileNotFound(name) => {
                let origin = self.origin(self.flags.profile.is_some(), "--profile", &["TEMPORAL_PROFILE"]);
                format!("no profile '{name}' ({origin}) in config file '{file}': add [profile.{name}], or name another")
            }
            ConfigError::InvalidConfig(text) => format!("invalid connection settings: {text}"),
            ConfigError::LoadError(error) => {
                format!("cannot load config file '{file}': {}", essence(&error.to_string()))
            }
        })
    }

    /// A key that is no header value would be left out in silence upstream.
    fn check_api_key(&self, profile: &ClientConfigProfile) -> Result<(), ConnectError> {
        if profile.api_key.as_ref().is_none_or(|key| key.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Ok(());
        }
        let origin = self.origin(self.flags.api_key.is_some(), "--api-key", &["TEMPORAL_API_KEY"]);
        let remedy = "a key is printable ASCII without blanks or line ends";
        Err(ConnectError::Config(format!("the API key ({origin}) can't be one: {remedy}")))
    }

    /// Decides whether TLS is used, reads what it needs, and checks it against the address.
    fn settle_tls(&self, profile: &mut ClientConfigProfile) -> Result<(), ConnectError> {
        let flags = self.flags;
        let address = profile.address.as_deref().unwrap_or(DEFAULT_ADDRESS);
        let target = self.target(address)?;
        let files = [&flags.tls_ca, &flags.tls_cert, &flags.tls_key];
        if flags.tls || flags.tls_server_name.is_some() || files.iter().any(|file| file.is_some()) {
            profile.tls.get_or_insert_default().disabled = Some(false);
        } else if target.scheme() == "https" {
            profile.tls.get_or_insert_default().disabled.get_or_insert(false);
        }
        let in_use = profile.tls.as_ref().map_or(profile.api_key.is_some(), |tls| tls.disabled != Some(true));
        match (in_use, address.contains("://").then(|| target.scheme())) {
            (true, Some("http")) => {
                return Err(ConnectError::Config(format!("TLS is asked for, but not by '{address}': write https://")));
            }
            (false, Some("https")) => {
                return Err(ConnectError::Config(format!(
                    "'{address}' asks for TLS, but TLS is disabled: write http://"
                )));
            }
            _ => {}
        }
        let Some(tls) = profile.tls.as_mut().filter(|_| in_use) else { return Ok(()) };
        if tls.disable_host_verification {
            return Err(ConnectError::Config(
                "TLS without host verification is not supported: name the server's authority with --tls-ca".to_owned(),
            ));
        }
        if flags.tls_server_name.is_some() {
            tls.server_name.clone_from(&flags.tls_server_name);
        }
        self.read_tls_files(tls)
    }

    fn read_tls_files(&self, tls: &mut ClientConfigTLS) -> Result<(), ConnectError> {
        let ConnectFlags { tls_ca, tls_cert, tls_key, .. } = self.flags;
        for (source, flag, what, name, var, label) in [
            (&mut tls.server_ca_cert, tls_ca, "certificate authority", "--tls-ca", "SERVER_CA_CERT", "CERTIFICATE"),
            (&mut tls.client_cert, tls_cert, "client certificate", "--tls-cert", "CLIENT_CERT", "CERTIFICATE"),
            (&mut tls.client_key, tls_key, "client key", "--tls-key", "CLIENT_KEY", "PRIVATE KEY"),
        ] {
            let vars = [&*format!("TEMPORAL_TLS_{var}_PATH"), &*format!("TEMPORAL_TLS_{var}_DATA")];
            let origin = self.origin(flag.is_some(), name, &vars);
            let bad = |shown: String, why: String| {
                ConnectError::Config(format!("cannot use {what}{shown} ({origin}): {why}; give a PEM file"))
            };
            let read = |path: &Path| {
                fs::read(path).map_err(|error: io::Error| bad(format!(" '{}'", path.display()), error.to_string()))
            };
            let data = match (flag, source.take()) {
                (Some(path), _) => read(path)?,
                (None, Some(DataSource::Path(path))) => read(Path::new(&path))?,
                (None, Some(DataSource::Data(data))) => data,
                (None, _) => continue,
            };
            // What follows BEGIN may name the kind of key.
            let text = String::from_utf8_lossy(&data);
            if !text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(label)) {
                return Err(bad(String::new(), format!("no '-----BEGIN {label}-----' in it")));
            }
            *source = Some(DataSource::Data(data));
        }
        if tls.client_cert.is_some() != tls.client_key.is_some() {
            return Err(ConnectError::Config(
                "a client certificate and its key go together: give both --tls-cert and --tls-key".to_owned(),
            ));
        }
        Ok(())
    }

    /// The address as a URL, `http` if it names no scheme. Without a port it would mean port 80, which nobody wants.
    fn target(&self, address: &str) -> Result<Url, ConnectError> {
        let is_url = address.contains("://");
        let parsed = if is_url { Url::parse(address) } else { Url::parse(&format!("http://{address}")) };
        let has_port = |url: &Url| match url.scheme() {
            "https" => true,
            _ => address.rsplit(':').next().and_then(|port| port.trim_end_matches('/').parse().ok()) > Some(0_u16),
        };
        let plain = |url: &Url| matches!(url.scheme(), "http" | "https") && url.path() == "/" && url.query().is_none();
        parsed.ok().filter(|url| url.has_host() && plain(url) && has_port(url)).ok_or_else(|| {
            let origin = self.origin(self.flags.address.is_some(), "--address", &["TEMPORAL_ADDRESS"]);
            let example = DEFAULT_ADDRESS;
            ConnectError::Config(format!("invalid address '{address}' ({origin}): write HOST:PORT, such as {example}"))
        })
    }

    /// The name under which something was given, in the order in which the names win.
    fn origin<'a>(&self, by_flag: bool, flag: &'a str, vars: &[&'a str]) -> String {
        let var = || vars.iter().find(|var| self.env.contains_key(**var)).copied();
        if by_flag { flag } else { var().unwrap_or("from the profile") }.to_owned()
    }
}

/// A message of several lines, without the quoted source between them.
fn essence(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains('|'));
    lines.collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";

    /// An environment with a config file of its own, so that the user's isn't read.
    struct Setting {
        dir: tempfile::TempDir,
        env: HashMap<String, String>,
        flags: ConnectFlags,
    }

    impl Setting {
        fn new(config: &str, env: &[(&str, &str)]) -> Setting {
            let dir = tempfile::tempdir().unwrap();
            let mut env: HashMap<_, _> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            env.insert("TEMPORAL_CONFIG_FILE".to_owned(), dir.path().join("temporal.toml").display().to_string());
            fs::write(dir.path().join("temporal.toml"), config).unwrap();
            Setting { dir, env, flags: ConnectFlags::default() }
        }

        fn resolve(&self) -> Result<Server, ConnectError> {
            Server::resolve_in(&self.flags, &self.env)
        }

        fn error(&self) -> String {
            match self.resolve() {
                Err(error @ ConnectError::Config(_)) => {
                    error.to_string().replace(&self.dir.path().display().to_string(), "DIR")
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn nothing_given_is_the_local_default() {
        let server = Setting::new("", &[]).resolve().unwrap();
        assert_eq!((server.address(), server.namespace(), server.configured()), ("localhost:7233", "default", false));
        assert!(server.options.tls_options.is_none());
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_profile() {
        let config = "[profile.default]\naddress = 'file:1'\nnamespace = 'file'\napi_key = 'file'\n";
        let mut setting = Setting::new(config, &[("TEMPORAL_ADDRESS", "env:2"), ("TEMPORAL_NAMESPACE", "env")]);
        setting.flags.address = Some("flag:3".into());
        let server = setting.resolve().unwrap();
        assert_eq!((server.address(), server.namespace(), server.configured()), ("flag:3", "env", true));
        assert_eq!(server.options.target.as_str(), "https://flag:3/");
        assert_eq!(server.options.api_key.as_deref(), Some("file"));
        assert!(!format!("{server:?}").contains("api_key"));
    }

    #[test]
    fn an_empty_variable_is_nothing() {
        let server = Setting::new("", &[("TEMPORAL_ADDRESS", ""), ("TEMPORAL_API_KEY", "")]).resolve().unwrap();
        assert!(!server.configured());
        assert!(server.options.api_key.is_none());
    }

    #[test]
    fn a_profile_is_chosen_by_flag_or_variable() {
        let config = "[profile.a]\naddress = 'a:1'\n[profile.b]\naddress = 'b:1'\n";
        let mut setting = Setting::new(config, &[("TEMPORAL_PROFILE", "a")]);
        assert_eq!(setting.resolve().unwrap().address(), "a:1");
        setting.flags.profile = Some("b".into());
        assert_eq!(setting.resolve().unwrap().address(), "b:1");
        setting.flags.profile = Some("c".into());
        assert_eq!(
            setting.error(),
            "no profile 'c' (--profile) in config file 'DIR/temporal.toml': add [profile.c], or name another"
        );
    }

    #[test]
    fn a_config_file_that_cannot_be_read_or_understood_is_named() {
        let mut setting = Setting::new("[profile.default]\naddress =\n", &[]);
        let error = setting.error();
        assert!(
            error.starts_with("cannot load config file 'DIR/temporal.toml': TOML parse error at line 2"),
            "{error}"
        );
        assert!(!error.contains('\n'));
        setting.flags.config_file = Some(setting.dir.path().join("none.toml"));
        assert_eq!(
            setting.error(),
            "cannot read config file 'DIR/none.toml' (--config-file): No such file or directory (os error 2)"
        );
    }

    #[test]
    fn an_address_needs_a_host_and_a_port() {
        for wrong in
            ["localhost", "localhost:", "localhost:0", "localhost:70000", ":7233", "ftp://a:1", "a:1/b", "http://a"]
        {
            let setting = Setting::new("", &[("TEMPORAL_ADDRESS", wrong)]);
            assert_eq!(
                setting.error(),
                format!("invalid address '{wrong}' (TEMPORAL_ADDRESS): write HOST:PORT, such as localhost:7233")
            );
        }
        for right in ["127.0.0.1:80", "[::1]:7233", "http://a:1", "http://a:1/", "https://cloud", "a.b-c:65535"] {
            let setting = Setting::new("", &[("TEMPORAL_ADDRESS", right)]);
            assert_eq!(setting.resolve().unwrap().address(), right);
        }
    }

    #[test]
    fn tls_is_on_if_anything_asks_for_it() {
        let mut setting = Setting::new("[profile.default.tls]\ndisabled = true\n", &[]);
        assert!(setting.resolve().unwrap().options.tls_options.is_none());
        setting.flags.tls_server_name = Some("inner".into());
        let tls = setting.resolve().unwrap().options.tls_options.unwrap();
        assert_eq!(tls.domain.as_deref(), Some("inner"));
        let by_scheme = Setting::new("", &[("TEMPORAL_ADDRESS", "https://cloud:7233")]);
        assert!(by_scheme.resolve().unwrap().options.tls_options.is_some());
    }

    #[test]
    fn an_address_that_contradicts_tls_is_refused() {
        let mut setting = Setting::new("", &[("TEMPORAL_ADDRESS", "http://a:1"), ("TEMPORAL_API_KEY", "secret")]);
        assert_eq!(setting.error(), "TLS is asked for, but not by 'http://a:1': write https://");
        setting.env.insert("TEMPORAL_TLS".into(), "false".into());
        assert!(setting.resolve().is_ok());
        setting.flags.address = Some("https://a:1".into());
        assert_eq!(setting.error(), "'https://a:1' asks for TLS, but TLS is disabled: write http://");
    }

    #[test]
    fn tls_files_are_read_checked_and_named() {
        let mut setting = Setting::new("", &[("TEMPORAL_TLS_CLIENT_CERT_PATH", "/nowhere/cert.pem")]);
        assert_eq!(
            setting.error(),
            "cannot use client certificate '/nowhere/cert.pem' (TEMPORAL_TLS_CLIENT_CERT_PATH): No such file or directory \
             (os error 2); give a PEM file"
        );
        let path = setting.dir.path().join("cert.pem");
        fs::write(&path, "no certificate").unwrap();
        setting.flags.tls_cert = Some(path.clone());
        assert_eq!(
            setting.error(),
            "cannot use client certificate (--tls-cert): no '-----BEGIN CERTIFICATE-----' in it; give a PEM file"
        );
        fs::write(&path, PEM).unwrap();
        assert_eq!(setting.error(), "a client certificate and its key go together: give both --tls-cert and --tls-key");
        let key = setting.dir.path().join("key.pem");
        fs::write(&key, "-----BEGIN EC PRIVATE KEY-----\n").unwrap();
        setting.flags.tls_key = Some(key);
        let tls = setting.resolve().unwrap().options.tls_options.unwrap();
        assert_eq!(tls.client_tls_options.unwrap().client_cert, PEM.as_bytes());
    }

    #[test]
    fn a_setting_that_would_be_ignored_is_refused() {
        let setting = Setting::new("", &[("TEMPORAL_TLS", "yes")]);
        assert_eq!(setting.error(), "TEMPORAL_TLS is 'yes': it must be true or false");
        let setting = Setting::new("", &[("TEMPORAL_TLS_DISABLE_HOST_VERIFICATION", "true")]);
        assert!(setting.error().starts_with("TLS without host verification is not supported"));
        let setting = Setting::new("", &[("TEMPORAL_API_KEY", "key\n")]);
        assert!(setting.error().starts_with("the API key (TEMPORAL_API_KEY) can't be one"));
    }

    #[test]
    fn somebody_listens_where_a_connection_is_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // The port of a client: taken, so that nobody else comes to listen there, and closed to connections.
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for (address, expected) in [(listener.local_addr(), true), (client.local_addr(), false)] {
            let address = format!("localhost:{}", address.unwrap().port());
            let server = Setting::new("", &[("TEMPORAL_ADDRESS", &address)]).resolve().unwrap();
            assert_eq!(server.somebody_listens(), expected);
        }
    }
}
