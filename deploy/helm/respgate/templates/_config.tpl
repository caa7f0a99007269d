{{/* The configuration that the chart writes, as YAML with the structure of respgate.toml. */}}
{{- define "respgate.generated" -}}
{{- $secrets := "/run/secrets/respgate" -}}
{{- $sidecar := eq .Values.mode "sidecar" -}}
workers: {{ .Values.workers | default (ternary 1 2 $sidecar) }}
drain-timeout: {{ printf "%ds" (int .Values.drain.timeoutSeconds) }}
{{- if not $sidecar }}
drain-delay: {{ printf "%ds" (int .Values.drain.delaySeconds) }}
{{- end }}
{{- if .Values.control.enabled }}
control-socket: /run/respgate/control.sock
{{- end }}
log:
  level: {{ .Values.log.level | quote }}
  format: {{ .Values.log.format | quote }}
limits:
  max-buffered: {{ .Values.maxBuffered | quote }}
listeners:
  {{- range $name, $port := dict "clients" .Values.listener.port "reads" .Values.listener.readPort }}
  {{- if $port }}
  {{ $name }}:
    address: {{ printf "%s:%d" (ternary "127.0.0.1" $.Values.bindAddress $sidecar) (int $port) | quote }}
    {{- if eq $name "reads" }}
    reads: prefer-replica
    {{- end }}
    {{- if include "respgate.listenerSecret" $ }}
    tls-cert: {{ $secrets }}/listener-tls/tls.crt
    tls-key: {{ $secrets }}/listener-tls/tls.key
    {{- if $.Values.listener.tls.requireClientCertificate }}
    tls-client-ca: {{ $secrets }}/listener-tls/ca.crt
    {{- end }}
    {{- end }}
  {{- end }}
  {{- end }}
upstreams:
  main:
    {{- with .Values.upstream }}
    {{- if .url }}
    url: {{ .url | quote }}
    {{- end }}
    {{- if .username }}
    username: {{ .username | quote }}
    {{- end }}
    {{- if include "respgate.passwordSecret" $ }}
    password-file: {{ $secrets }}/upstream-password/password
    {{- end }}
    {{- if .sentinelPasswordSecret.name }}
    sentinel-password-file: {{ $secrets }}/sentinel-password/password
    {{- end }}
    {{- if or .ca.configMap .ca.secret }}
    tls-ca: {{ $secrets }}/upstream-ca/ca.crt
    {{- end }}
    {{- if include "respgate.clientSecret" $ }}
    tls-cert: {{ $secrets }}/upstream-tls/tls.crt
    tls-key: {{ $secrets }}/upstream-tls/tls.key
    {{- end }}
    {{- if .serverName }}
    tls-server-name: {{ .serverName | quote }}
    {{- end }}
    {{- end }}
{{- end }}

{{- define "respgate.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end -}}
{{- end }}

{{/*
A table in TOML: its values first, then its tables. JSON's texts, numbers, truth values and lists are TOML too.
Takes a dict of "path" (the table's name) and "table".
*/}}
{{- define "respgate.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .table -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "respgate.tomlKey" $key }} = {{ toRawJson $value }}
{{- end -}}
{{- end -}}
{{- range $key, $value := .table -}}
{{- if kindIs "map" $value -}}
{{- $name := include "respgate.tomlKey" $key -}}
{{- $name = ternary $name (printf "%s.%s" $path $name) (eq $path "") -}}
{{- $tables := 0 -}}
{{- range $value }}{{ if kindIs "map" . }}{{ $tables = add1 $tables }}{{ end }}{{ end -}}
{{- if or (eq (len $value) 0) (lt (int $tables) (len $value)) }}

[{{ $name }}]
{{- end -}}
{{- include "respgate.toml" (dict "path" $name "table" $value) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The text of respgate.toml. */}}
{{- define "respgate.config" -}}
{{- if .Values.config -}}
{{ .Values.config }}
{{- else -}}
# Written by the chart {{ .Chart.Name }} {{ .Chart.Version }}. respgate follows changes of this file.
{{- $generated := include "respgate.generated" . | fromYaml -}}
{{- if not (kindIs "map" $generated.upstreams.main) }}{{ $_ := set $generated.upstreams "main" dict }}{{ end -}}
{{- include "respgate.toml" (dict "path" "" "table" (mergeOverwrite $generated (deepCopy .Values.settings))) }}
{{- end }}
{{- end }}
