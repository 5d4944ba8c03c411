{{/* The release's name in every object, with the chart's name unless it is in there already. */}}
{{- define "headpond.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The Service that resolves to every ready pod. */}}
{{- define "headpond.headless" -}}
{{- include "headpond.fullname" . }}-headless
{{- end -}}

{{- define "headpond.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "headpond.fullname" .) "default") -}}
{{- end -}}

{{/* What finds the pods. It cannot change in an upgrade. */}}
{{- define "headpond.selector" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "headpond.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "headpond.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "headpond.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* An image to try: from the first rule that names one to a person, else from the default rules. */}}
{{- define "headpond.sample" -}}
{{- if hasKey . "rules" -}}
{{- $rule := kindIs "slice" .rules | ternary .rules (list .rules) | first | default dict -}}
{{- if and $rule.prefix (ne (toString $rule.prefix) "ROOT") }}{{ $rule.prefix }}/{{ end }}NAME:TAG
{{- else -}}
docker-hub/library/alpine:latest
{{- end -}}
{{- end -}}
