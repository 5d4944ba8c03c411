"""Values that the chart is tried with: each way of installing it, and one that sets everything."""

TOKEN_SECRET, KEYS_SECRET, USERS_SECRET, TLS_SECRET = "headpond-token", "bucket-keys", "headpond-users", "headpond-tls"
ROLE = "arn:aws:iam::123456789012:role/headpond"
BUCKET = {"bucket": "cache", "prefix": "prod", "region": "eu-west-1"}

DISK: dict = {}
OVER_S3 = {
    "config": {"storage": {"s3": BUCKET}},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": ROLE}},
}
THREE_REPLICAS = OVER_S3 | {"replicas": 3, "tokenKey": {"existingSecret": TOKEN_SECRET}}
EVERYTHING = {
    "config": {
        "listen": ["[::]:5000", {"address": "0.0.0.0:5443", "tls": {"certificate": "tls.crt", "key": "tls.key"}}],
        "admin": {"address": "[::]:9000"},
        "storage": {"path": "/cache", "s3": BUCKET | {"endpoint": "http://s3.test:9000"}, "delivery": "redirect"},
        "rules": [{"prefix": "team", "upstream": "registry.test", "allow": ["a/*"]}],
        "limits": {"drain_deadline": "1m 30s", "shutdown_delay": "500ms", "max_connections": 1000000},
    },
    "replicas": 2,
    "image": {"repository": "registry.test/headpond", "digest": "sha256:" + "0" * 64, "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "pull"}],
    "nameOverride": "cache",
    "fullnameOverride": "images",
    "tokenKey": {"existingSecret": TOKEN_SECRET, "key": "key"},
    "s3Credentials": {"existingSecret": KEYS_SECRET},
    "users": {"existingSecret": USERS_SECRET},
    "secrets": [TLS_SECRET, TOKEN_SECRET],
    "env": [
        {"name": "HTTPS_PROXY", "value": "http://proxy.test:3128"},
        {"name": "HUB_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ],
    "tier": {"size": "500Mi"},
    "serviceAccount": {"create": False, "name": "other"},
    "service": {
        "type": "LoadBalancer",
        "port": 80,
        "nodePort": 30500,
        "annotations": {"service.beta.kubernetes.io/aws-load-balancer-scheme": "internal"},
        "loadBalancerClass": "service.k8s.aws/nlb",
        "loadBalancerSourceRanges": ["10.0.0.0/8"],
        "externalTrafficPolicy": "Local",
    },
    "resources": {"limits": {"memory": "2Gi"}},
    "podDisruptionBudget": {"maxUnavailable": "50%"},
    "podAnnotations": {"example.test/a": "b"},
    "podLabels": {"example.test/c": "d"},
    "nodeSelector": {"kubernetes.io/arch": "arm64"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "system-cluster-critical",
    "volumes": [{"name": "ca", "configMap": {"name": "corporate-ca"}}],
    "volumeMounts": [{"name": "ca", "mountPath": "/etc/headpond/ca", "readOnly": True}],
}
DISK_WITH_CLASS = {
    "persistence": {
        "size": "1Ti",
        "storageClassName": "gp3",
        "accessModes": ["ReadWriteOncePod"],
        "annotations": {"example.test/a": "b"},
    },
    "terminationGracePeriodSeconds": 600,
    "service": {"type": "NodePort", "nodePort": 30500},
}

ALL = {
    "disk": DISK,
    "s3": OVER_S3,
    "s3_three_replicas": THREE_REPLICAS,
    "everything": EVERYTHING,
    "disk_with_class": DISK_WITH_CLASS,
}
