{{/* The pod, the same in a Deployment and a StatefulSet. */}}
{{- define "headpond.pod" -}}
{{- $config := include "headpond.config" . | fromYaml -}}
{{- $secrets := include "headpond.secretNames" . | fromJsonArray -}}
metadata:
  annotations:
    # Pods are made anew when the configuration changes. (A Secret that changes is not seen here.)
    checksum/config: {{ include "headpond.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "headpond.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "headpond.serviceAccount" . }}
  # Headpond asks nothing of the cluster. The token of a role comes by a volume of its own.
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "headpond.gracePeriod" . }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  containers:
    - name: headpond
      image: {{ include "headpond.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      env:
        # A variable, so that commands which are run in the pod find it too.
        - {name: HEADPOND_CONFIG, value: /etc/headpond/config/headpond.yaml}
        # The image presets these, and they would win over the file. Empty is unset.
        {{- range list "HEADPOND_LISTEN" "HEADPOND_ADMIN" "HEADPOND_STORAGE" }}
        - {name: {{ . }}, value: ""}
        {{- end }}
        {{- with .Values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- range $index, $listener := include "headpond.listeners" $config.listen | fromJsonArray }}
        - {name: {{ include "headpond.portName" $index }}, containerPort: {{ $listener.port }}, protocol: TCP}
        {{- end }}
        - {name: admin, containerPort: {{ include "headpond.port" $config.admin.address }}, protocol: TCP}
      # Soon, whatever the size of the store; a bucket that is slow to answer gets a minute.
      startupProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: 2
        failureThreshold: 30
      livenessProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      # Stays green while the bucket or an upstream is down: what is cached is still served.
      readinessProbe:
        httpGet: {path: /readyz, port: admin}
        periodSeconds: 3
        timeoutSeconds: 3
      resources:
        {{- include "headpond.resources" . | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/headpond/config, readOnly: true}
        - {name: store, mountPath: {{ $config.storage.path | quote }}}
        {{- range $index, $name := $secrets }}
        - {name: secret-{{ $index }}, mountPath: /etc/headpond/secrets/{{ $name }}, readOnly: true}
        {{- end }}
        {{- with .Values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "headpond.fullname" . }}}
    {{- if include "headpond.overS3" . }}
    - name: store
      emptyDir: {sizeLimit: {{ .Values.tier.size }}}
    {{- end }}
    {{- range $index, $name := $secrets }}
    - name: secret-{{ $index }}
      # For the group, which is the pod's fsGroup, and nobody else.
      secret: {secretName: {{ $name }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    {{- $own := dict "labelSelector" (dict "matchLabels" (include "headpond.selector" $ | fromYaml)) }}
    - {{- toYaml (merge (deepCopy .) $own) | nindent 6 }}
    {{- end }}
  {{- end }}
{{- end -}}

{{/* A JSON list of the Secrets that are mounted, each once. */}}
{{- define "headpond.secretNames" -}}
{{- $own := list .Values.tokenKey.existingSecret .Values.s3Credentials.existingSecret .Values.users.existingSecret -}}
{{- concat $own .Values.secrets | compact | uniq | toJson -}}
{{- end -}}

{{/* The first listener is `registry`, the others are numbered. */}}
{{- define "headpond.portName" -}}
{{- if eq (int .) 0 -}}registry{{- else -}}registry-{{ add1 . }}{{- end -}}
{{- end -}}

{{/* The disk tier takes the node's disk: asked for, so that a node without room for it is not chosen. */}}
{{- define "headpond.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if include "headpond.overS3" . -}}
{{- include "headpond.default" (list $resources "requests" dict) -}}
{{- include "headpond.default" (list $resources.requests "ephemeral-storage" .Values.tier.size) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
