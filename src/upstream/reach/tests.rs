use super::super::Proxies;
use super::*;

fn reach(hosts: &[&str], networks: &[&str]) -> Reach {
    Reach {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        proxies: Vec::new(),
    }
}

fn passes(reach: &Reach, url: &str) -> bool {
    reach.check(&Url::parse(url).unwrap()).is_ok()
}

#[test]
fn addresses_that_are_not_of_the_internet_are_refused() {
    let nothing = reach(&[], &[]);
    for host in [
        "0.0.0.0",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.8.8.8",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.168.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "2130706433",
        "0x7f.1",
        "[::]",
        "[::1]",
        "[::10.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::a00:1]",
        "[64:ff9b:1::a00:1]",
        "[2002:a00:1::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[fec0::1]",
        "[ff02::1]",
        "localhost",
        "a.localhost",
    ] {
        assert!(!passes(&nothing, &format!("https://{host}/x")), "{host}");
        assert!(!passes(&nothing, &format!("https://{host}:8443/x")), "{host}");
    }
}

#[test]
fn addresses_of_the_internet_and_names_pass() {
    let nothing = reach(&[], &[]);
    for host in [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.1",
        "100.63.255.255",
        "100.128.0.0",
        "168.63.129.17",
        "172.15.0.1",
        "172.32.0.1",
        "192.0.1.1",
        "192.169.0.1",
        "223.255.255.255",
        "[2606:4700::1111]",
        "[::ffff:1.1.1.1]",
        "[64:ff9b::101:101]",
        "[2002:101:101::1]",
        "registry.example",
        "localhost.example",
    ] {
        assert!(passes(&nothing, &format!("https://{host}/x")), "{host}");
    }
}

#[test]
fn what_the_rule_names_passes_and_nothing_beside_it() {
    let some = reach(&["10.0.0.1", "fd00::1", "minio.internal"], &["192.168.7.0/24"]);
    for host in ["10.0.0.1", "[fd00::1]", "192.168.7.9", "[::ffff:192.168.7.9]"] {
        assert!(passes(&some, &format!("http://{host}:9000/x")), "{host}");
    }
    for host in ["10.0.0.2", "[fd00::2]", "192.168.8.9"] {
        assert!(!passes(&some, &format!("http://{host}/x")), "{host}");
    }
}

#[test]
fn of_a_names_addresses_the_private_ones_are_left_out() {
    let (private, public): (SocketAddr, SocketAddr) = ("10.0.0.1:0".parse().unwrap(), "1.1.1.1:0".parse().unwrap());
    let some = reach(&["minio.internal"], &[]);
    assert_eq!(some.choose("cdn.example", vec![private, public]), Ok(vec![public]));
    assert_eq!(some.choose("MinIO.internal.", vec![private]), Ok(vec![private]));
    assert_eq!(some.choose("nowhere.example", vec![]), Ok(vec![]));
    let refused = some.choose("cdn.example", vec![private]).unwrap_err().to_string();
    assert!(refused.starts_with("cdn.example is at the private address 10.0.0.1, which the rule does not name"), "{refused}");
}

#[test]
fn no_url_leads_to_the_proxy_unless_the_rule_names_its_host() {
    let on_the_way = |private_hosts: &[&str], networks: &[&str]| {
        let proxies = Proxies { http: Some("http://10.0.0.5:3128".to_owned()), https: Some("Proxy.corp:3128".to_owned()), no_proxy: None };
        Reach::new(&UpstreamSettings {
            proxies,
            private_hosts: private_hosts.iter().map(|host| (*host).to_owned()).collect(),
            private_networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
            ..UpstreamSettings::of(Url::parse("https://registry.example").unwrap())
        })
    };
    let urls = ["https://proxy.corp:3128/x", "https://PROXY.corp./x", "http://10.0.0.5:3128/x", "http://[::ffff:10.0.0.5]/x"];
    let unnamed = on_the_way(&[], &[]);
    for url in urls {
        assert!(!passes(&unnamed, url), "{url}");
    }
    let refused = unnamed.check(&Url::parse(urls[0]).unwrap()).unwrap_err().to_string();
    assert_eq!(refused, "proxy.corp is the proxy, which the rule does not name; if that is right, add proxy.corp to its `private_hosts`");
    let named = on_the_way(&["proxy.corp"], &["10.0.0.0/24"]);
    for url in urls {
        assert!(passes(&named, url), "{url}");
    }
    let address: SocketAddr = "10.0.0.7:0".parse().unwrap();
    assert_eq!(unnamed.choose("proxy.corp", vec![address]), Ok(vec![address]), "the way to it stays open");
}

#[test]
fn hosts_are_those_of_the_upstream_its_realms_and_what_is_listed() {
    let settings = UpstreamSettings {
        realms: vec!["login.corp:8443".to_owned(), "[fd00::2]:80".to_owned(), "other.corp".to_owned()],
        private_hosts: vec!["minio.internal".to_owned()],
        ..UpstreamSettings::of(Url::parse("https://[fd00::1]:5000/base").unwrap())
    };
    assert_eq!(Reach::new(&settings).hosts, ["fd00::1", "login.corp", "fd00::2", "other.corp", "minio.internal"]);
}
