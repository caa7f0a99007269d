{{- define "respgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The longest suffix that a template adds is "-listener-tls". */}}
{{- define "respgate.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "respgate.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "respgate.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "respgate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "respgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "respgate.labels" -}}
{{ include "respgate.selectorLabels" . }}
app.kubernetes.io/component: {{ .Values.mode }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The labels of the pod of `helm test`, which no Service selects. */}}
{{- define "respgate.doctorLabels" -}}
app.kubernetes.io/name: {{ include "respgate.name" . }}-doctor
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "respgate.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "respgate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "respgate.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/* The Secret with the listener's certificate; empty: plain text. */}}
{{- define "respgate.listenerSecret" -}}
{{- if .Values.listener.tls.secret -}}
{{ .Values.listener.tls.secret }}
{{- else if and .Values.certManager.enabled .Values.certManager.listener (ne .Values.mode "sidecar") -}}
{{ include "respgate.fullname" . }}-listener-tls
{{- end }}
{{- end }}

{{/* The Secret with the certificate that respgate shows to the server; empty: none. */}}
{{- define "respgate.clientSecret" -}}
{{- if .Values.upstream.clientCertificateSecret -}}
{{ .Values.upstream.clientCertificateSecret }}
{{- else if and .Values.certManager.enabled .Values.certManager.client -}}
{{ include "respgate.fullname" . }}-client-tls
{{- end }}
{{- end }}

{{/* The Secret with the server's password; empty: none. */}}
{{- define "respgate.passwordSecret" -}}
{{- if .Values.upstream.passwordSecret.name -}}
{{ .Values.upstream.passwordSecret.name }}
{{- else if .Values.externalSecret.enabled -}}
{{ include "respgate.fullname" . }}-upstream
{{- end }}
{{- end }}

{{/* Ends the rendering with a text if values contradict each other. */}}
{{- define "respgate.check" -}}
{{- $up := .Values.upstream -}}
{{- $url := ne $up.url "" -}}
{{- $from := or $up.urlFrom.configMap $up.urlFrom.secret -}}
{{- $sentinels := ne $up.sentinelFrom.configMap "" -}}
{{- $sources := 0 -}}
{{- if $url }}{{ $sources = add1 $sources }}{{ end -}}
{{- if $up.urlFrom.configMap }}{{ $sources = add1 $sources }}{{ end -}}
{{- if $up.urlFrom.secret }}{{ $sources = add1 $sources }}{{ end -}}
{{- if $sentinels }}{{ $sources = add1 $sources }}{{ end -}}
{{- if gt (int $sources) 1 -}}
{{- fail "upstream: set only one of url, urlFrom.configMap, urlFrom.secret and sentinelFrom.configMap" -}}
{{- end -}}
{{- if and (eq (int $sources) 0) (not .Values.config) (not (hasKey .Values.settings "upstreams")) -}}
{{- fail "upstream: name the server in upstream.url, upstream.urlFrom or upstream.sentinelFrom; for example --set upstream.url=redis://db:6379" -}}
{{- end -}}
{{- if and $url (not (regexMatch "^(unix:|((redis|valkey)s?|rediss|(redis|rediss|valkey|valkeys)[-+]sentinel|sentinels?)://)" $up.url)) -}}
{{- fail "upstream.url: write redis://host:6379, rediss://host:6379 (TLS), redis-sentinel://s1,s2,s3/0#primary-name or unix:/path" -}}
{{- end -}}
{{- if regexMatch "://[^/?#]*:[^/?#]*@" $up.url -}}
{{- fail "upstream.url holds a password: put the password into a Secret (upstream.passwordSecret), or the whole URL (upstream.urlFrom.secret)" -}}
{{- end -}}
{{- if and .Values.config (gt (len .Values.settings) 0) -}}
{{- fail "config is a whole respgate.toml: write the keys of settings into it, and leave settings empty" -}}
{{- end -}}
{{- if eq .Values.mode "bridge" -}}
{{- if and $url (not (regexMatch "^((rediss|valkeys)([-+]sentinel)?|sentinels)://" $up.url)) -}}
{{- fail "mode bridge requires TLS to the server: write upstream.url with rediss:// or rediss-sentinel://, or use mode gateway" -}}
{{- end -}}
{{- if and $sentinels (not $up.sentinelFrom.tls) -}}
{{- fail "mode bridge requires TLS to the server: set upstream.sentinelFrom.tls=true, or use mode gateway" -}}
{{- end -}}
{{- end -}}
{{- if and $up.ca.configMap $up.ca.secret -}}
{{- fail "upstream.ca: set only one of configMap and secret" -}}
{{- end -}}
{{- if and .Values.listener.tls.requireClientCertificate (not (include "respgate.listenerSecret" .)) -}}
{{- fail "listener.tls.requireClientCertificate needs listener.tls.secret or certManager.listener" -}}
{{- end -}}
{{- if and .Values.certManager.enabled (not .Values.certManager.issuer.name) -}}
{{- fail "certManager.enabled needs certManager.issuer.name" -}}
{{- end -}}
{{- if and .Values.externalSecret.enabled (not (and .Values.externalSecret.store.name .Values.externalSecret.remoteKey)) -}}
{{- fail "externalSecret.enabled needs externalSecret.store.name and externalSecret.remoteKey" -}}
{{- end -}}
{{- if and (eq .Values.mode "sidecar") .Values.podMonitor.enabled (not .Values.podMonitor.selector) (not .Values.example.enabled) -}}
{{- fail "podMonitor.selector: in mode sidecar, name the labels of the pods that have the sidecar" -}}
{{- end -}}
{{- end }}
