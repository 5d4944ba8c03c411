//! The commands, by the built program.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn headpond(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headpond"));
    command.args(arguments).stdin(Stdio::null());
    for variable in
        ["HEADPOND_CONFIG", "HEADPOND_LISTEN", "HEADPOND_ADMIN", "HEADPOND_STORAGE", "HEADPOND_LOG_LEVEL", "HEADPOND_LOG_FORMAT"]
    {
        command.env_remove(variable);
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    headpond(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn check(directory: &Path, text: &str) -> Output {
    let file = directory.join("headpond.yaml");
    std::fs::write(&file, text).unwrap();
    run(&["check-config", "--config", file.to_str().unwrap()])
}

#[test]
fn check_config_prints_every_problem_and_exits_1() {
    let directory = tempfile::tempdir().unwrap();
    let output = check(directory.path(), "listen: nowhere\nrules: [{prefix: a, upstrem: quay.io}]\n");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    for said in [
        "headpond.yaml: 4 problems",
        "listen: `nowhere`",
        "rules[0].prefix:",
        "rules[0].upstream: is missing",
        "did you mean `upstream`?",
        "next: ",
    ] {
        assert!(stderr(&output).contains(said), "{said}: {}", stderr(&output));
    }
}

#[test]
fn check_config_prints_the_rules_and_what_is_probably_not_meant() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("token"), "hunter2").unwrap();
    let output = check(
        directory.path(),
        "rules:\n- {prefix: hub, upstream: docker.io}\n- {prefix: github, upstream: ghcr.io, credentials: {username: me, password: 'file:token'}}\n",
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).ends_with(
        "headpond.yaml: no problems, 2 rules\n  hub     https://registry-1.docker.io\n  github  https://ghcr.io  (as me, for users only)\n"
    ));
    assert!(stderr(&output).starts_with("warning: rules[1]: nobody can pull through it"), "{}", stderr(&output));
    assert!(stderr(&output).contains("next: headpond serve --config "));
}

#[test]
fn check_config_reads_the_files_that_are_named() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["crt", "key"] {
        std::fs::write(directory.path().join(name), "not pem").unwrap();
    }
    std::fs::write(directory.path().join("users"), "a:$apr1$x$y\n").unwrap();
    let output = check(directory.path(), "{listen: {address: 127.0.0.1:1, tls: {certificate: crt, key: key}}, auth: {users: users}}");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("listen[0].tls: ") && stderr(&output).contains("line 1: is MD5"), "{}", stderr(&output));
}

#[test]
fn file_that_is_not_there_is_said_with_what_to_do() {
    for command in ["check-config", "serve"] {
        let output = run(&[command, "--config", "/nonexistent/headpond.yaml"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains("/nonexistent/headpond.yaml: 1 problem") && stderr(&output).contains("hint: "),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn knobs_may_come_from_the_environment() {
    let output = headpond(&["serve"]).env("HEADPOND_LOG_LEVEL", "loud").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--log-level: `loud` is no log level"), "{}", stderr(&output));
    let output = headpond(&["serve"]).env("HEADPOND_LISTEN", "nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn an_empty_variable_is_an_unset_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("headpond.yaml");
    std::fs::write(&file, "listen: nowhere\n").unwrap();
    let mut command = headpond(&["serve", "--config", file.to_str().unwrap()]);
    command.env("HEADPOND_CONFIG", "");
    for preset in ["HEADPOND_LISTEN", "HEADPOND_ADMIN", "HEADPOND_STORAGE", "HEADPOND_LOG_LEVEL", "HEADPOND_LOG_FORMAT"] {
        command.env(preset, "");
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("1 problem") && stderr(&output).contains("listen: `nowhere`"), "{}", stderr(&output));
}

#[test]
fn schema_is_json_on_stdout() {
    let output = run(&["schema"]);
    let schema: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(output.status.code(), Some(0));
}

fn hash_password(arguments: &[&str], typed: &str) -> Output {
    let mut child = headpond(&[&["hash-password"], arguments].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn hash_password_prints_a_line_of_the_users_file() {
    let output = hash_password(&["--user", "someone"], "right horse\n");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (user, hash) = stdout(&output).trim_end().split_once(':').unwrap();
    assert_eq!(user, "someone");
    assert!(hash.starts_with("$2y$10$") && bcrypt::verify("right horse", hash).unwrap());
    assert!(stderr(&output).contains("next: append this line"));
    assert!(stdout(&hash_password(&[], "x")).starts_with("$2y$10$"));
}

#[test]
fn password_that_bcrypt_would_cut_and_name_that_no_line_can_hold_are_refused() {
    assert!(stderr(&hash_password(&[], "\n")).contains("the password is empty"));
    assert!(stderr(&hash_password(&[], &"x".repeat(72))).contains("longer than 71 bytes"));
    assert_eq!(hash_password(&[], &"x".repeat(71)).status.code(), Some(0));
    for name in ["a:b", "", "#a"] {
        assert_eq!(hash_password(&["--user", name], "x").status.code(), Some(2), "{name}");
    }
}

/// Answers one request with `answer`, in a thread, and returns the address and the request.
fn answering(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = vec![0; 1024];
        let length = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    (address, thread)
}

#[test]
fn healthcheck_asks_healthz_and_tells_by_its_exit_code() {
    let (address, request) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(run(&["healthcheck", "--admin", &address]).status.code(), Some(0));
    assert!(request.join().unwrap().starts_with("GET /healthz HTTP/1.1\r\n"));
    let (address, _) = answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    let output = run(&["healthcheck", "--admin", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("503"), "{}", stderr(&output));
}

#[test]
fn healthcheck_finds_the_admin_port_in_a_file_whatever_else_is_wrong_with_it() {
    let (address, _) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("headpond.yaml");
    std::fs::write(&file, format!("{{admin: {{address: '{address}'}}, rules: 5, unknown: x}}")).unwrap();
    assert_eq!(run(&["healthcheck", "--config", file.to_str().unwrap()]).status.code(), Some(0));
}

#[test]
fn healthcheck_of_nobody_fails_with_a_hint() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = run(&["healthcheck", "--admin", &free]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&free) && stderr(&output).contains("hint: "), "{}", stderr(&output));
}

#[test]
fn healthcheck_of_one_that_does_not_answer_ends_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = run(&["healthcheck", "--admin", &silent.local_addr().unwrap().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no answer within 3 s"), "{}", stderr(&output));
}

/// What a server said, and its limit of open files, soft and hard, once it served.
struct Served {
    stdout: String,
    stderr: String,
    open_files: (u64, u64),
}

/// Starts a server behind a `ulimit` of the shell, waits until it says that it serves, and ends it.
fn serve_behind(ulimit: &str, limits: &str) -> Served {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("headpond.yaml");
    let ports = "listen: 0.0.0.0:0\nadmin: {address: 127.0.0.1:0}";
    let rest = "storage: {path: store}\nrules: [{prefix: up, upstream: 'http://127.0.0.1:1'}]";
    std::fs::write(&file, format!("{ports}\n{rest}\nlimits: {limits}\n")).unwrap();
    let program = headpond(&["serve", "--config", file.to_str().unwrap()]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{ulimit} && exec \"$0\" \"$@\"")]).arg(program.get_program()).args(program.get_args());
    for (variable, _) in program.get_envs() {
        shell.env_remove(variable);
    }
    let mut child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdout, mut lines) = (String::new(), BufReader::new(child.stdout.take().unwrap()));
    while !stdout.contains("skopeo copy") && lines.read_line(&mut stdout).unwrap() > 0 {}
    let found = std::fs::read_to_string(format!("/proc/{}/limits", child.id()));
    child.kill().unwrap();
    let stderr = stderr(&child.wait_with_output().unwrap()).to_owned();
    let found = found.unwrap();
    let line = found.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap_or(u64::MAX));
    Served { stdout, stderr, open_files: (numbers.next().unwrap(), numbers.next().unwrap()) }
}

#[test]
fn serve_raises_the_soft_limit_of_open_files_to_the_hard_one() {
    let served = serve_behind("ulimit -S -n 256", "{max_connections: 200}");
    let (soft, hard) = served.open_files;
    assert!(soft == hard && hard > 400, "{:?}: {}", served.open_files, served.stderr);
    assert_eq!(served.stderr.matches("raised the limit of open files").count(), 1, "{}", served.stderr);
    assert!(!served.stderr.contains("fewer files may be open"), "{}", served.stderr);
}

#[test]
fn serve_warns_once_where_fewer_files_may_be_open_than_twice_its_connections() {
    let served = serve_behind("ulimit -n 256", "{max_connections: 129}");
    assert_eq!(served.open_files, (256, 256));
    assert_eq!(served.stderr.matches("fewer files may be open").count(), 1, "{}", served.stderr);
    assert!(served.stderr.contains("lower limits.max_connections") && served.stderr.contains("needed=258"), "{}", served.stderr);
    let enough = serve_behind("ulimit -n 256", "{max_connections: 128}").stderr;
    assert!(!enough.contains("fewer files may be open") && !enough.contains("raised the limit"), "{enough}");
}

#[test]
fn serve_on_every_address_says_to_pull_from_loopback() {
    let said = serve_behind(":", "{}").stdout;
    let port = said.split_once("http://0.0.0.0:").unwrap().1.split('/').next().unwrap();
    assert!(said.contains(&format!("  docker pull 127.0.0.1:{port}/up/")), "{said}");
    assert!(said.contains(&format!(" docker://127.0.0.1:{port}/up/")), "{said}");
}
