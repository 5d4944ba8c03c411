{{/* Whether content is kept in a bucket: "true" or nothing. */}}
{{- define "headpond.overS3" -}}
{{- if (.Values.config.storage | default dict).s3 -}}true{{- end -}}
{{- end -}}

{{/* Of the volume that the store is on. */}}
{{- define "headpond.volumeSize" -}}
{{- if include "headpond.overS3" . -}}{{ .Values.tier.size }}{{- else -}}{{ .Values.persistence.size }}{{- end -}}
{{- end -}}

{{/*
The configuration as the pod gets it: that of values.config, and what must fit the pod where that says nothing.
Keys are looked for with hasKey, since 0 and false are answers too.
*/}}
{{- define "headpond.config" -}}
{{- include "headpond.check" . -}}
{{- $config := deepCopy .Values.config -}}
{{- $overS3 := include "headpond.overS3" . -}}
{{- range list "admin" "storage" "limits" -}}
{{- include "headpond.default" (list $config . dict) -}}
{{- end -}}
{{- include "headpond.default" (list $config "listen" "0.0.0.0:5000") -}}
{{- include "headpond.default" (list $config.admin "address" "0.0.0.0:5001") -}}
{{- include "headpond.default" (list $config.storage "path" "/var/lib/headpond") -}}
{{- include "headpond.default" (list $config.storage "max_size" (include "headpond.ninetenths" (include "headpond.volumeSize" .))) -}}
{{/* Nodes go on to send connections until they have seen that the pod is not ready. */}}
{{- include "headpond.default" (list $config.limits "shutdown_delay" "5s") -}}
{{- with .Values.s3Credentials -}}
{{- if and $overS3 .existingSecret -}}
{{- include "headpond.default" (list $config.storage.s3 "access_key" (include "headpond.secretFile" (list .existingSecret .accessKey))) -}}
{{- include "headpond.default" (list $config.storage.s3 "secret_key" (include "headpond.secretFile" (list .existingSecret .secretKey))) -}}
{{- end -}}
{{- end -}}
{{- if or .Values.users.existingSecret .Values.tokenKey.existingSecret -}}
{{- include "headpond.default" (list $config "auth" dict) -}}
{{- end -}}
{{- with .Values.users -}}
{{- if .existingSecret -}}
{{- include "headpond.default" (list $config.auth "users" (printf "/etc/headpond/secrets/%s/%s" .existingSecret .key)) -}}
{{- end -}}
{{- end -}}
{{- with .Values.tokenKey -}}
{{- if .existingSecret -}}
{{- include "headpond.default" (list $config.auth "token_key" (include "headpond.secretFile" (list .existingSecret .key))) -}}
{{- end -}}
{{- end -}}
{{- if and $overS3 (gt (int .Values.replicas) 1) -}}
{{- include "headpond.default" (list $config "cluster" dict) -}}
{{- if not (hasKey $config.cluster "peers") -}}
{{- $peers := printf "%s.%s.svc:%s" (include "headpond.headless" .) .Release.Namespace (include "headpond.peerPort" $config.listen) -}}
{{- $_ := set $config.cluster "peers" $peers -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* The port under which replicas ask each other: they speak plain HTTP, and sign what they say. */}}
{{- define "headpond.peerPort" -}}
{{- $port := 0 -}}
{{- range include "headpond.listeners" . | fromJsonArray -}}
{{- if and .plain (not $port) -}}{{- $port = int .port -}}{{- end -}}
{{- end -}}
{{- if not $port -}}
{{- fail "\n\nThe replicas ask each other over plain HTTP, and every listener has TLS or PROXY protocol.\nAdd one without to config.listen, such as 0.0.0.0:5002; service.port stays that of the first.\n" -}}
{{- end -}}
{{- $port -}}
{{- end -}}

{{/*
`listen` and `cluster.peers`: a JSON list of {index, port} of the listeners that clients may have. Not one that the replicas
ask each other over, unless it is the first.
*/}}
{{- define "headpond.clientListeners" -}}
{{- $peers := (.cluster | default dict).peers | default list -}}
{{- $peerPorts := list -}}
{{- range kindIs "slice" $peers | ternary $peers (list $peers) -}}
{{- $peerPorts = append $peerPorts (regexFind "[0-9]+$" .) -}}
{{- end -}}
{{- $listeners := list -}}
{{- range $index, $listener := include "headpond.listeners" .listen | fromJsonArray -}}
{{- if or (eq $index 0) (not (has (toString $listener.port) $peerPorts)) -}}
{{- $listeners = append $listeners (dict "index" $index "port" $listener.port) -}}
{{- end -}}
{{- end -}}
{{- toJson $listeners -}}
{{- end -}}

{{/* (list MAP KEY VALUE): sets what is not there. Prints nothing. */}}
{{- define "headpond.default" -}}
{{- if not (hasKey (index . 0) (index . 1)) -}}
{{- $_ := set (index . 0) (index . 1) (index . 2) -}}
{{- end -}}
{{- end -}}

{{/* What the schema cannot say. */}}
{{- define "headpond.check" -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- if not (include "headpond.overS3" .) -}}
{{- fail (printf "\n\nreplicas is %d, but the store is a disk, which one process holds.\nSet config.storage.s3 so that the replicas share a bucket, or set replicas to 1.\n" (int .Values.replicas)) -}}
{{- end -}}
{{- if not (or .Values.tokenKey.existingSecret (.Values.config.auth | default dict).token_key) -}}
{{- fail (printf "\n\nreplicas is %d, and they need a key by which they know each other. Make one, and name it:\n\n  kubectl create namespace %s --dry-run=client --output yaml | kubectl apply --filename -\n  kubectl --namespace %s create secret generic headpond-token --from-literal=token.key=\"$(openssl rand -base64 48)\"\n\n  tokenKey: {existingSecret: headpond-token}\n" (int .Values.replicas) .Release.Namespace .Release.Namespace) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* (list SECRET KEY): a reference to a mounted file. */}}
{{- define "headpond.secretFile" -}}
{{- printf "file:/etc/headpond/secrets/%s/%s" (index . 0) (index . 1) -}}
{{- end -}}

{{/* `listen` in any of its shapes: a JSON list of {port, tls, plain}, in its order. */}}
{{- define "headpond.listeners" -}}
{{- $listeners := list -}}
{{- range kindIs "slice" . | ternary . (list .) -}}
{{- $address := . -}}
{{- $tls := false -}}
{{- $proxied := false -}}
{{- if kindIs "map" . -}}
{{- $address = .address | default "" -}}
{{- $tls = hasKey . "tls" -}}
{{- $proxied = .proxy_protocol | default false -}}
{{- end -}}
{{- $port := include "headpond.port" $address -}}
{{- $listeners = append $listeners (dict "port" (int $port) "tls" $tls "plain" (not (or $tls $proxied))) -}}
{{- end -}}
{{- toJson $listeners -}}
{{- end -}}

{{/* The port of an address that other pods can reach. */}}
{{- define "headpond.port" -}}
{{- $port := regexFind "[0-9]+$" (toString .) -}}
{{- if or (not $port) (regexMatch "^(127\\.|localhost|\\[::1\\])" (toString .)) -}}
{{- fail (printf "\n\n%q cannot be reached from outside the pod. Listen on 0.0.0.0 or [::], or leave the address out of config.\n" (toString .)) -}}
{{- end -}}
{{- $port -}}
{{- end -}}

{{/* Nine tenths of a volume of so many Mi, Gi or Ti, as Headpond writes sizes: its file system needs room too. */}}
{{- define "headpond.ninetenths" -}}
{{- $mebibytes := dict "Mi" 1 "Gi" 1024 "Ti" 1048576 -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- printf "%dMiB" (div (mul $number (get $mebibytes (regexFind "[A-Za-z]+$" .)) 9) 10) -}}
{{- end -}}

{{/* A duration of the configuration in whole seconds, rounded up. */}}
{{- define "headpond.seconds" -}}
{{- $text := toString . -}}
{{- if not (regexMatch "^(0|([0-9]+ *(ms|s|sec|m|min|h) *)+)$" $text) -}}
{{- fail (printf "\n\n%q is no duration that a pod can wait for. Write it as 500ms, 30s, 5m or 1h.\n" $text) -}}
{{- end -}}
{{- $milliseconds := dict "ms" 1 "s" 1000 "sec" 1000 "m" 60000 "min" 60000 "h" 3600000 -}}
{{- $total := 0 -}}
{{- range regexFindAll "[0-9]+ *[a-z]+" $text -1 -}}
{{- $total = add $total (mul (regexFind "[0-9]+" . | int64) (get $milliseconds (regexFind "[a-z]+" .))) -}}
{{- end -}}
{{- div (add $total 999) 1000 -}}
{{- end -}}

{{/* How long a pod may take to end: what Headpond waits, its 10 s for background tasks, and some to spare. */}}
{{- define "headpond.gracePeriod" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- $limits := (include "headpond.config" . | fromYaml).limits -}}
{{- $drain := hasKey $limits "drain_deadline" | ternary $limits.drain_deadline "30s" -}}
{{- add (include "headpond.seconds" $limits.shutdown_delay) (include "headpond.seconds" $drain) 20 -}}
{{- else -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}
